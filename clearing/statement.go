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
	var b [2 + 32 + 20 + 16 + 32]byte
	amount := e.Amount.Word()
	b[0], b[1] = 0x05, byte(e.Direction)
	copy(b[2:], e.Digest[:])
	copy(b[34:], e.Counterparty[:])
	copy(b[54:], amount[16:])
	copy(b[70:], e.Evidence[:])
	return evm.Keccak256(b[:])
}

// compareEntries orders a statement: what goes out before what comes in, each ascending by digest.
func compareEntries(a, b Entry) int {
	return cmp.Or(cmp.Compare(a.Direction, b.Direction), bytes.Compare(a.Digest[:], b.Digest[:]))
}

// entries returns a guarantee's entry in its payer's statement and the one in its payee's.
func (h *House) entries(g Guarantee) (out, in Entry) {
	c := g.Signed.Claims
	return Line{Payer: c.Payer, Payee: c.Payee, Digest: g.Digest, Evidence: h.evidence(g), Payable: g.Payable}.entries()
}

func (l Line) entries() (out, in Entry) {
	out = Entry{Direction: Out, Digest: l.Digest, Counterparty: l.Payee, Amount: l.Payable, Evidence: l.Evidence}
	in = out
	in.Direction, in.Counterparty = In, l.Payer
	return out, in
}

// evidence commits to everything that proves an entry: what was certified, the payer's signature and how it was made, and
// the payee's lowest note.
func (h *House) evidence(g Guarantee) evm.Hash { return evidence(h.claims(g), g) }

// evidence is [House.evidence] of a guarantee whose certified claims are there already.
func evidence(claims []byte, g Guarantee) evm.Hash {
	parts := [][]byte{claims, {signatureForm(g.Signed)}, g.Signed.Signature[:]}
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
		level[i] = leafNode(e.Direction, e.hash(), e.Amount)
	}
	return foldSums(level)
}

func leafNode(d Direction, hash evm.Hash, amount money.Amount) sumNode {
	if d == Out {
		return sumNode{hash: hash, out: amount}
	}
	return sumNode{hash: hash, in: amount}
}

// foldSums folds at least one leaf, and overwrites them.
func foldSums(level []sumNode) (root sumNode, err error) {
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
	Out, In     money.Amount // payable
	// What was guaranteed before notes lowered it.
	OutGuaranteed, InGuaranteed money.Amount

	Position *Position // nil until the cycle is netted
	Entries  []Entry   // out before in, each ascending by digest
	Root     evm.Hash
	Hash     evm.Hash // what the participant's position is posted with; preliminary until the cycle is netted
}

// newStatement sorts entries and sums them up.
func newStatement(c Cycle, participant evm.Address, entries []Entry) (Statement, error) {
	slices.SortFunc(entries, compareEntries)
	root, err := entriesRoot(entries)
	if err != nil {
		return Statement{}, fmt.Errorf("statement of %s in cycle %s: %w", participant, c.Ref, err)
	}
	return Statement{
		Cycle: c, Participant: participant, Out: root.out, In: root.in, Entries: entries, Root: root.hash,
		Hash: statementHash(c.Ref.ID(), c.Generation, participant, root),
	}, nil
}

// statementHash returns keccak256(0x03 ‖ cycle 32 ‖ generation 8 ‖ participant 20 ‖ out 16 ‖ in 16 ‖ root 32).
func statementHash(cycle evm.Hash, generation uint64, participant evm.Address, root sumNode) evm.Hash {
	var b [1 + 32 + 8 + 20 + 16 + 16 + 32]byte
	out, in := root.out.Word(), root.in.Word()
	b[0] = 0x03
	copy(b[1:], cycle[:])
	binary.BigEndian.PutUint64(b[33:], generation)
	copy(b[41:], participant[:])
	copy(b[61:], out[16:])
	copy(b[77:], in[16:])
	copy(b[93:], root.hash[:])
	return evm.Keccak256(b[:])
}
