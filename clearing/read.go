package clearing

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

// GuaranteeStatus is where a guarantee stands, as 4Mica's protocol spells it.
type GuaranteeStatus string

// The statuses that a guarantee can have.
const (
	StatusPending    GuaranteeStatus = "PENDING_VALIDATION"  // its validator has not answered well enough yet
	StatusPayable    GuaranteeStatus = "FINALIZED_PAYABLE"   // admitted; its cycle is not netted yet
	StatusCancelled  GuaranteeStatus = "CANCELLED"           // a note let it go, or its validator did not answer in time
	StatusNetted     GuaranteeStatus = "NETTED"              // part of its payer's net position
	StatusSettled    GuaranteeStatus = "SETTLED"             // its payer paid, had nothing to pay, or chose to be settled from collateral
	StatusRemunerate GuaranteeStatus = "DEFAULT_REMUNERATED" // its payer is marked as defaulted; its payee is funded all the same
	StatusDisputed   GuaranteeStatus = "DISPUTED"            // its cycle failed; the collateral behind it stays locked
)

// Status says where a guarantee stands, given the cycle that nets it and its payer's position, which is the zero value as long as
// there is none. Only what the payer did counts: a payee's claim says nothing about anybody's debt.
func Status(g Guarantee, c Cycle, payer Position) GuaranteeStatus {
	switch {
	case g.Payable.IsZero():
		return StatusCancelled
	case g.Pending():
		return StatusPending
	case c.Status == Failed:
		return StatusDisputed
	case c.Status == Open || c.Status == Frozen:
		return StatusPayable
	case payer.Flags.Paid:
		return StatusSettled
	case payer.Flags.Defaulted:
		return StatusRemunerate
	case c.Status == Closed, c.Status == Final && payer.Role != Debtor:
		return StatusSettled
	default:
		return StatusNetted
	}
}

// Standing is a guarantee, the cycle that nets it (the one of its certificate if none does), and where it stands.
type Standing struct {
	Guarantee Guarantee
	Cycle     Cycle
	Status    GuaranteeStatus
}

// Proof is what a participant shows to the chain.
type Proof struct {
	Cycle    Cycle
	Position Position
	Leaf     evm.Hash
	Siblings []evm.Hash // from Leaf to Cycle.Root
}

// Deadline is a moment at which a cycle is due to move.
type Deadline struct {
	Cycle CycleRef
	To    CycleStatus
	At    uint64 // unix seconds
}

// Account returns an owner's account, a zero one if the house knows nothing of it.
func (h *House) Account(ctx context.Context, owner, asset evm.Address) (a Account, err error) {
	err = h.Book.Read(ctx, func(tx Tx) (err error) {
		a, err = tx.Account(owner, asset)
		a.Owner, a.Asset = owner, asset
		return err
	})
	return a, err
}

// Assets returns the assets that are cleared here.
func (h *House) Assets(ctx context.Context) (assets []evm.Address, err error) {
	err = h.Book.Read(ctx, func(tx Tx) (err error) { assets, err = tx.Assets(); return err })
	return assets, err
}

// Schedules returns an asset's schedules, the oldest first.
func (h *House) Schedules(ctx context.Context, asset evm.Address) (list []Schedule, err error) {
	err = h.Book.Read(ctx, func(tx Tx) (err error) { list, err = tx.Schedules(asset); return err })
	return list, err
}

// Signers returns the keys that an owner has named, ascending, those that have ended included.
func (h *House) Signers(ctx context.Context, owner evm.Address) (list []Signer, err error) {
	err = h.Book.Read(ctx, func(tx Tx) (err error) { list, err = tx.Signers(owner); return err })
	return list, err
}

// Current returns the cycle that would take a guarantee in the asset now; whether anything is in it yet, its Guarantees do not
// say. The error is [ErrAsset] if there is none.
func (h *House) Current(ctx context.Context, asset evm.Address, now time.Time) (c Cycle, err error) {
	err = h.Book.Read(ctx, func(tx Tx) (err error) {
		c, _, err = h.openCycle(newView(tx), asset, unix(now))
		if err == nil && c.Status != Open {
			err = ErrAsset
		}
		return err
	})
	return c, err
}

// Cycle returns a cycle by its text or 32-byte id, or [ErrNotFound]. A cycle has a row from its first guarantee on.
func (h *House) Cycle(ctx context.Context, id string) (c Cycle, err error) {
	err = h.Book.Read(ctx, func(tx Tx) (err error) { c, err = cycleByText(tx, id); return err })
	return c, err
}

func cycleByText(tx Tx, id string) (Cycle, error) {
	hash, err := ParseCycleID(id)
	if err != nil {
		return Cycle{}, err
	}
	c, found, err := tx.CycleByID(hash)
	if err == nil && !found {
		err = fmt.Errorf("cycle %s: %w", hash.Short(), ErrNotFound)
	}
	return c, err
}

// ParseCycleID reads a cycle's text, 0xasset:start in any letter case, or its 32-byte id. What is neither is
// [ErrNotFound]: it names no cycle.
func ParseCycleID(id string) (evm.Hash, error) {
	if asset, start, ok := strings.Cut(id, ":"); ok {
		a, errA := evm.ParseAddress(asset)
		n, errN := money.ParseAmount(start)
		seconds, fits := n.Uint64()
		if errA == nil && errN == nil && fits {
			return guarantee.CycleID(a, seconds), nil
		}
	} else if hash, err := evm.ParseHash(id); err == nil {
		return hash, nil
	}
	return evm.Hash{}, fmt.Errorf("cycle id: %w", ErrNotFound)
}

// Cycles returns an asset's cycles, the newest first; limit 0 is no limit.
func (h *House) Cycles(ctx context.Context, asset evm.Address, limit int) (list []Cycle, err error) {
	err = h.Book.Read(ctx, func(tx Tx) (err error) { list, err = tx.Cycles(asset, false, limit); return err })
	return list, err
}

// Unsettled returns an asset's cycles, newest first and at most limit, that a participant has a claim on or owes to, as
// far as the chain has told: one that lets its collateral settle goes on owing, and may still pay to have it back.
func (h *House) Unsettled(ctx context.Context, asset, participant evm.Address, limit int) (list []Cycle, err error) {
	err = h.Book.Read(ctx, func(tx Tx) error {
		list = nil
		refs, err := tx.Unsettled(asset, participant, limit)
		for _, ref := range refs {
			c, _, err := tx.Cycle(ref)
			if err != nil {
				return err
			}
			list = append(list, c)
		}
		return err
	})
	return list, err
}

// Positions returns the positions of a cycle, ascending by participant: none before it is netted.
func (h *House) Positions(ctx context.Context, id string) (ps []Position, err error) {
	err = h.Book.Read(ctx, func(tx Tx) error {
		c, err := cycleByText(tx, id)
		if err == nil {
			ps, err = tx.Positions(c.Ref, c.Generation)
		}
		return err
	})
	return ps, err
}

// Proof returns a participant's position in a netted cycle and its way to the root, or [ErrNotFound].
func (h *House) Proof(ctx context.Context, id string, participant evm.Address) (p Proof, err error) {
	var t tree
	err = h.Book.Read(ctx, func(tx Tx) (err error) {
		p = Proof{}
		if p.Cycle, err = cycleByText(tx, id); err != nil {
			return err
		}
		var found bool
		p.Position, found, err = tx.Position(p.Cycle.Ref, p.Cycle.Generation, participant)
		if err == nil && !found {
			err = fmt.Errorf("position of %s in cycle %s: %w", participant, p.Cycle.Ref, ErrNotFound)
		}
		if err == nil {
			t, err = h.tree(tx, p.Cycle)
		}
		return err
	})
	if err != nil {
		return Proof{}, err
	}
	p.Leaf, p.Siblings = t[0][p.Position.Index], t.proof(p.Position.Index)
	return p, nil
}

// treesRemembered bounds the trees in memory: 64 bytes a participant. Proofs are asked for of the newest cycles.
const treesRemembered = 8

// treeCache keeps the newest trees that were asked for. They can always be made again from the positions.
type treeCache struct {
	mu    sync.Mutex
	trees []cachedTree // guarded by mu; the newest last
}

type cachedTree struct {
	ref  CycleRef
	root evm.Hash
	tree tree
}

// tree returns R of a netted cycle.
func (h *House) tree(tx Tx, c Cycle) (tree, error) {
	h.trees.mu.Lock()
	defer h.trees.mu.Unlock() // also while it is made: who asks meanwhile wants the same one
	for _, t := range h.trees.trees {
		if t.ref == c.Ref && t.root == c.Root {
			return t.tree, nil
		}
	}
	ps, err := tx.Positions(c.Ref, c.Generation)
	if err != nil {
		return nil, err
	}
	if len(ps) == 0 {
		return nil, fmt.Errorf("positions of cycle %s: %w", c.Ref, ErrNotFound)
	}
	r, _ := h.fold(c.Ref, ps)
	if r.root() != c.Root {
		return nil, fmt.Errorf("positions of cycle %s do not fold to its root: %w", c.Ref, ErrBroken)
	}
	if len(h.trees.trees) == treesRemembered {
		h.trees.trees = slices.Delete(h.trees.trees, 0, 1)
	}
	h.trees.trees = append(h.trees.trees, cachedTree{c.Ref, c.Root, r})
	return r, nil
}

// Statement returns what a cycle came to for one participant, line by line, or [ErrNotFound] for who has no part in it.
// Until the cycle is netted it is what the cycle has come to so far.
func (h *House) Statement(ctx context.Context, id string, participant evm.Address) (s Statement, err error) {
	err = h.Book.Read(ctx, func(tx Tx) error {
		c, err := cycleByText(tx, id)
		if err != nil {
			return err
		}
		var entries []Entry
		var signed [2]money.Amount // by direction
		for g, err := range tx.GuaranteesOf(c.Ref, participant) {
			if err != nil {
				return err
			}
			entry, in := h.entries(g)
			if g.Signed.Claims.Payer != participant {
				entry = in
			}
			entries = append(entries, entry)
			signed[entry.Direction], _ = signed[entry.Direction].Add(g.Signed.Claims.Amount) // fewer than 2^144 of 112 bits
		}
		if len(entries) == 0 {
			return fmt.Errorf("statement of %s in cycle %s: %w", participant, c.Ref, ErrNotFound)
		}
		if s, err = newStatement(c, participant, entries); err != nil {
			return err
		}
		s.OutGuaranteed, s.InGuaranteed = signed[Out], signed[In]
		if p, found, err := tx.Position(c.Ref, c.Generation, participant); err != nil || found {
			s.Position = &p
			return err
		}
		return nil
	})
	return s, err
}

// Guarantee returns a guarantee by the digest of its claims and where it stands, or [ErrNotFound].
func (h *House) Guarantee(ctx context.Context, digest evm.Hash) (s Standing, err error) {
	err = h.Book.Read(ctx, func(tx Tx) (err error) {
		g, found, err := tx.GuaranteeByDigest(digest)
		if err == nil && !found {
			err = fmt.Errorf("guarantee %s: %w", digest.Short(), ErrNotFound)
		}
		if err == nil {
			s, err = standing(tx, g, nil)
		}
		return err
	})
	return s, err
}

// GuaranteeByKey returns a guarantee by its name and where it stands, or [ErrNotFound].
func (h *House) GuaranteeByKey(ctx context.Context, k guarantee.Key) (s Standing, err error) {
	err = h.Book.Read(ctx, func(tx Tx) (err error) {
		g, found, err := tx.GuaranteeByKey(k)
		if err == nil && !found {
			err = fmt.Errorf("guarantee: %w", ErrNotFound)
		}
		if err == nil {
			s, err = standing(tx, g, nil)
		}
		return err
	})
	return s, err
}

// standing finds out where a guarantee stands. payers remembers positions between calls for one cycle; it may be nil.
func standing(tx Tx, g Guarantee, payers map[evm.Address]Position) (Standing, error) {
	ref := g.Netting()
	if ref == Nowhere(ref.Asset) {
		ref = g.Cycle
	}
	c, found, err := tx.Cycle(ref)
	if err == nil && !found {
		err = fmt.Errorf("guarantee %s is of cycle %s, which is not there: %w", g.Digest, ref, ErrBroken)
	}
	if err != nil {
		return Standing{}, err
	}
	payer := g.Signed.Claims.Payer
	p, known := payers[payer]
	if !known {
		if p, _, err = tx.Position(c.Ref, c.Generation, payer); err != nil {
			return Standing{}, err
		}
		if payers != nil {
			payers[payer] = p
		}
	}
	return Standing{Guarantee: g, Cycle: c, Status: Status(g, c, p)}, nil
}

// Certificate makes a certificate of an admitted guarantee again. It is a single one, a pure function of the guarantee
// and the key.
func (h *House) Certificate(g Guarantee) (guarantee.Certificate, error) {
	return h.Authority.Certify(h.claims(g))
}

// Next returns when each of an asset's cycles is due to move next, the soonest first.
func (h *House) Next(ctx context.Context, asset evm.Address) (list []Deadline, err error) {
	err = h.Book.Read(ctx, func(tx Tx) error {
		list = nil
		open, err := tx.Cycles(asset, true, 0)
		for _, c := range open {
			d := Deadline{Cycle: c.Ref}
			switch c.Status {
			case Open:
				d.To, d.At = Frozen, c.End
			case Frozen:
				d.To, d.At = Netted, c.CutoffAt
			case Netted:
				d.To, d.At = Committed, c.PostDeadline
			case Committed:
				d.To, d.At = Final, c.FinalAt
			default:
				continue
			}
			list = append(list, d)
		}
		return err
	})
	slices.SortStableFunc(list, func(a, b Deadline) int {
		return cmp.Or(cmp.Compare(a.At, b.At), compareRefs(a.Cycle, b.Cycle))
	})
	return list, err
}

func unix(t time.Time) uint64 { return uint64(max(0, t.Unix())) }
