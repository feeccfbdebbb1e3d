package clearing

import (
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
)

// Defaults of [Config].
const (
	DefaultPast      = 300 * time.Second // a payer's slow clock, and a request that waited for a retry
	DefaultFuture    = 30 * time.Second  // a payer's fast clock
	DefaultBatchMax  = 256               // more per transaction saves little: the rows themselves dominate by then
	DefaultChunkMax  = 1024              // 70,656 bytes, which common nodes accept in one transaction
	DefaultKeepDepth = 1024              // blocks that can be unwound
)

// Config is what a [House] works with. Book, Chain, Deployment and Authority must be set; the zero value of each other
// member stands for its default.
type Config struct {
	Book       Book
	Chain      Chain
	Deployment guarantee.Deployment
	Authority  *guarantee.Authority
	Rules      guarantee.Rules // which forms of signature are admitted

	// Registries are those whose validators' answers count. Without any, no guarantee may depend on a validator. Registry asks
	// them, and must be set if there are any; it goes on being asked about guarantees of before.
	Registries []evm.Address
	Registry   Registry

	// MembersOnly admits guarantees between members, see [Wallet]. Otherwise everybody is served who is not suspended.
	MembersOnly bool

	Past, Future time.Duration // how far a guarantee's timestamp may be from the house's clock
	BatchMax     int           // most guarantees in one transaction
	ChunkMax     int           // positions posted in one call, a power of two of at most 1024
	KeepDepth    uint64        // how many blocks of each stream can be unwound

	// Rest is called again and again by work that takes seconds, as netting a large cycle does, while guarantees are being
	// admitted. It pauses for a moment, so that they find a processor; nil does not.
	Rest func()
}

// House is a clearing house: see the package's documentation. It is safe for concurrent use, and several houses may
// share one Book. Make one with [New].
type House struct {
	Config // as New completed it; to be read, not changed

	height    uint8                // chunks hold 2^height positions
	separator evm.Hash             // of claims
	domains   [2]evm.Hash          // of certificates of version 1 and 2
	admits    []gather[*admission] // by payer, so that no two groups want one account
	notes     gather[*noting]
	trees     treeCache
	known     roster
	defaults  atomic.Uint64
	admitting atomic.Int64             // calls of Admit
	lastCycle atomic.Pointer[CycleRef] // that a guarantee was admitted to
}

// New makes a house.
func New(c Config) (*House, error) {
	if c.Book == nil || c.Chain == nil || c.Authority == nil {
		return nil, errors.New("clearing: a house needs a book, a chain and an authority")
	}
	if c.Deployment.ChainID == 0 || c.Deployment.Name == "" || c.Deployment.Vault.IsZero() || c.Deployment.ClearingHouse.IsZero() {
		return nil, errors.New("clearing: a house needs a whole deployment: chain id, name, vault and clearing house")
	}
	if len(c.Registries) > 0 && c.Registry == nil {
		return nil, errors.New("clearing: registries are trusted, and nothing asks them")
	}
	if c.Past < 0 || c.Future < 0 || c.BatchMax < 0 || c.ChunkMax < 0 {
		return nil, errors.New("clearing: a negative setting")
	}
	setDefault(&c.Past, DefaultPast)
	setDefault(&c.Future, DefaultFuture)
	setDefault(&c.BatchMax, DefaultBatchMax)
	setDefault(&c.ChunkMax, DefaultChunkMax)
	setDefault(&c.KeepDepth, DefaultKeepDepth)
	if c.ChunkMax > DefaultChunkMax || bits.OnesCount(uint(c.ChunkMax)) != 1 {
		return nil, fmt.Errorf("clearing: chunks of %d positions: not a power of two of at most %d", c.ChunkMax, DefaultChunkMax)
	}
	h := &House{
		Config: c, height: uint8(bits.TrailingZeros(uint(c.ChunkMax))),
		separator: c.Deployment.ClaimsSeparator(), domains: [2]evm.Hash{c.Deployment.DomainOf(1), c.Deployment.DomainOf(2)},
	}
	side := 1
	if b, ok := c.Book.(interface{ SideBySide() int }); ok {
		side = b.SideBySide()
	}
	h.admits = make([]gather[*admission], side)
	for i := range h.admits {
		h.admits[i].max, h.admits[i].run = c.BatchMax, h.admitGroup
	}
	h.notes.max, h.notes.run = c.BatchMax, h.noteGroup
	return h, nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
