package clearing

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

// Direction says on which side of a statement an entry stands.
type Direction uint8

// The directions.
const (
	Out Direction = 0 // the participant is the payer
	In  Direction = 1 // the participant is the payee
)

// Entry is one guarantee in one participant's statement.
type Entry struct {
	Direction    Direction
	Digest       evm.Hash // of the claims, EIP-712
	Counterparty evm.Address
	Amount       money.Amount // payable
	Evidence     evm.Hash
}

// hash returns keccak256(0x05 ‖ direction ‖ digest 32 ‖ counterparty 20 ‖ amount 16 ‖ evidence 32).
func (e Entry) hash() evm.Hash {
	amount := e.Amount.Word()
	return evm.Keccak256([]byte{0x05, byte(e.Direction)}, e.Digest[:], e.Counterparty[:], amount[16:], e.Evidence[:])
}

// compareEntries orders a statement: what goes out before what comes in, each ascending by digest.
func compareEntries(a, b Entry) int {
	return cmp.Or(cmp.Compare(a.Direction, b.Direction), bytes.Compare(a.Digest[:], b.Digest[:]))
}

// entries returns a guarantee's entry in its payer's statement and the one in its payee's.
func (h *House) entries(g Guarantee) (out, in Entry) {
	out = Entry{Direction: Out, Digest: g.Digest, Counterparty: g.Signed.Claims.Payee, Amount: g.Payable, Evidence: h.evidence(g)}
	in = out
	in.Direction, in.Counterparty = In, g.Signed.Claims.Payer
	return out, in
}

// evidence commits to everything that proves an entry: what was certified, the payer's signature and how it was made, and
// the payee's lowest note.
func (h *House) evidence(g Guarantee) evm.Hash {
	claims, signature := h.claims(g), g.Signed.Signature
	parts := [][]byte{claims, {signatureForm(g.Signed)}, signature[:]}
	if n := g.Note; n != nil {
		amount := n.Amount.Word()
		parts = append(parts, n.Digest[:], amount[:], n.Reason[:], n.Signature[:])
	}
	return evm.Keccak256(parts...)
}

// signatureForm returns the byte that says how a payer signed: 0 typed data, 1 a personal message over the claims' bytes,
// 2 one over their hexadecimal text.
func signatureForm(s guarantee.Signed) byte {
	if s.Form == guarantee.EIP712 {
		return 0
	}
	c := s.Claims
	var b []byte
	for _, w := range [...][32]byte{c.Payer.Word(), c.Payee.Word(), c.ReqID, c.Amount.Word(), c.Asset.Word(), evm.WordUint64(c.Timestamp)} {
		b = append(b, w[:]...)
	}
	if signer, err := evm.Recover(evm.HashPersonal(b), s.Signature); err == nil && signer == c.Payer {
		return 1
	}
	return 2
}

// sumNode is a node of the tree over a statement's entries: what it holds and what goes out and comes in under it.
type sumNode struct {
	hash    evm.Hash
	out, in money.Amount
}

// entryWidth is how many children a node of a statement's tree has: the rounds in which a participant can ask for what is
// under it grow with the depth.
const entryWidth = 16

// entriesRoot folds ordered entries: a node is keccak256(0x04 ‖ 16 × (hash 32 ‖ out 16 ‖ in 16)), a missing child is zeros,
// until one node is left. No entries give zeros.
func entriesRoot(entries []Entry) (root sumNode, err error) {
	if len(entries) == 0 {
		return sumNode{}, nil
	}
	level := make([]sumNode, len(entries))
	for i, e := range entries {
		level[i].hash = e.hash()
		if e.Direction == Out {
			level[i].out = e.Amount
		} else {
			level[i].in = e.Amount
		}
	}
	for len(level) > 1 {
		up := level[:0]
		for children := range slices.Chunk(level, entryWidth) {
			parent, err := sumChildren(children)
			if err != nil {
				return sumNode{}, err
			}
			up = append(up, parent)
		}
		level = up
	}
	return level[0], nil
}

func sumChildren(children []sumNode) (parent sumNode, err error) {
	var b [1 + entryWidth*64]byte
	b[0] = 0x04
	for i, c := range children {
		out, in := c.out.Word(), c.in.Word()
		at := b[1+64*i:]
		copy(at, c.hash[:])
		copy(at[32:], out[16:])
		copy(at[48:], in[16:])
		var okOut, okIn bool
		parent.out, okOut = parent.out.Add(c.out)
		parent.in, okIn = parent.in.Add(c.in)
		if !okOut || !okIn || parent.out.BitLen() > 128 || parent.in.BitLen() > 128 {
			return sumNode{}, fmt.Errorf("a statement's sum passes 128 bits: %w", ErrBroken)
		}
	}
	parent.hash = evm.Keccak256(b[:])
	return parent, nil
}

// Statement is what one participant's cycle came to, line by line.
type Statement struct {
	Cycle       Cycle
	Participant evm.Address
	Out, In     money.Amount
	Entries     []Entry // out before in, each ascending by digest
	Root        evm.Hash
	Hash        evm.Hash // what the participant's position is posted with; preliminary until the cycle is netted
}

// newStatement sorts entries and sums them up.
func newStatement(c Cycle, participant evm.Address, entries []Entry) (Statement, error) {
	slices.SortFunc(entries, compareEntries)
	root, err := entriesRoot(entries)
	if err != nil {
		return Statement{}, fmt.Errorf("statement of %s in cycle %s: %w", participant, c.Ref, err)
	}
	id, out, in := c.Ref.ID(), root.out.Word(), root.in.Word()
	generation := binary.BigEndian.AppendUint64(nil, c.Generation)
	return Statement{
		Cycle: c, Participant: participant, Out: root.out, In: root.in, Entries: entries, Root: root.hash,
		Hash: evm.Keccak256([]byte{0x03}, id[:], generation, participant[:], out[16:], in[16:], root.hash[:]),
	}, nil
}
