package guarantee

import (
	"encoding/binary"
	"fmt"

	"github.com/farthing402/farthing/evm"
)

// Inclusion places a certificate's claims among the leaves of a batch.
type Inclusion struct {
	Root        evm.Hash
	Index, Size uint32
	Siblings    []evm.Hash // from the leaf's level up; a level where the node has no neighbour has none
}

// siblingsMax is the longest proof that an index of 32 bits can need.
const siblingsMax = 32

// A leaf and an inner node begin with different bytes, so neither passes for the other.
func batchLeaf(claims []byte) evm.Hash              { return evm.Keccak256([]byte{0x00}, claims) }
func batchNode(left, right evm.Hash) evm.Hash       { return evm.Keccak256([]byte{0x01}, left[:], right[:]) }
func batchHasSibling(index, width uint32) bool      { return index^1 < width }
func batchParent(index, width uint32) (i, w uint32) { return index / 2, width/2 + width%2 }

var batchTag = evm.Keccak256([]byte("FARTHING_BATCH_V1"))

// batchMessage is what the operator signs for a batch. Its first word is a hash, never a claims version, so that a
// signature over a batch is none over claims.
func batchMessage(domain, root, cycle evm.Hash, size uint32) (m [4*32 + 8]byte) {
	copy(m[0:], batchTag[:])
	copy(m[32:], domain[:])
	copy(m[64:], root[:])
	copy(m[96:], cycle[:])
	binary.BigEndian.PutUint32(m[128:], size) // four zero bytes remain
	return m
}

// batchProofs builds the tree over leaves, at least one, and returns each leaf's proof. A node without a neighbour
// moves up unchanged.
func batchProofs(leaves []evm.Hash) []Inclusion {
	size := uint32(len(leaves))
	proofs := make([]Inclusion, size)
	levels := [][]evm.Hash{leaves}
	for level := leaves; len(level) > 1; {
		next := make([]evm.Hash, 0, (len(level)+1)/2)
		for i := 0; i+1 < len(level); i += 2 {
			next = append(next, batchNode(level[i], level[i+1]))
		}
		if len(level)%2 == 1 {
			next = append(next, level[len(level)-1])
		}
		levels = append(levels, next)
		level = next
	}
	top := levels[len(levels)-1][0]
	for leaf := range proofs {
		p := Inclusion{Root: top, Index: uint32(leaf), Size: size, Siblings: make([]evm.Hash, 0, len(levels)-1)}
		for i, level := uint32(leaf), 0; level < len(levels)-1; level++ {
			width := uint32(len(levels[level]))
			if batchHasSibling(i, width) {
				p.Siblings = append(p.Siblings, levels[level][i^1])
			}
			i, _ = batchParent(i, width)
		}
		proofs[leaf] = p
	}
	return proofs
}

// check follows the proof from leaf to the root. Index and size fix how many siblings there are and on which side each
// stands, so that a batch has one proof per leaf.
func (p Inclusion) check(leaf evm.Hash) error {
	if p.Index >= p.Size {
		return fmt.Errorf("index %d of %d: %w", p.Index, p.Size, ErrProof)
	}
	node, rest := leaf, p.Siblings
	for i, width := p.Index, p.Size; width > 1; i, width = batchParent(i, width) {
		if !batchHasSibling(i, width) {
			continue
		}
		if len(rest) == 0 {
			return fmt.Errorf("%d siblings are too few: %w", len(p.Siblings), ErrProof)
		}
		if i%2 == 0 {
			node = batchNode(node, rest[0])
		} else {
			node = batchNode(rest[0], node)
		}
		rest = rest[1:]
	}
	if len(rest) != 0 {
		return fmt.Errorf("%d siblings are too many: %w", len(p.Siblings), ErrProof)
	}
	if node != p.Root {
		return fmt.Errorf("root: %w", ErrProof)
	}
	return nil
}
