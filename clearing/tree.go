package clearing

import (
	"bytes"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
)

// positionBytes is the length of a position on chain: participant 20 ‖ role 1 ‖ amount 16 ‖ statement 32.
const positionBytes = 69

// encode appends the position as it is posted. The amount fits, netting has seen to it.
func (p Position) encode(b []byte) []byte {
	amount := p.Amount.Word()
	b = append(b, p.Participant[:]...)
	b = append(b, byte(p.Role))
	b = append(b, amount[16:]...)
	return append(b, p.Statement[:]...)
}

// encodeChunk returns the bytes of a chunk.
func encodeChunk(ps []Position) []byte {
	b := make([]byte, 0, positionBytes*len(ps))
	for _, p := range ps {
		b = p.encode(b)
	}
	return b
}

// leaf returns a position's leaf of R, which 4Mica's clients know: keccak256(abi.encode(chainId, clearingHouse, cycleId,
// asset, participant, amount, role)). Its 224 bytes cannot be taken for a node's 64.
func leaf(d guarantee.Deployment, cycle evm.Hash, asset evm.Address, p Position) evm.Hash {
	var b [7 * 32]byte
	chain, house, amount, role := evm.WordUint64(d.ChainID), d.ClearingHouse.Word(), p.Amount.Word(), evm.WordUint64(uint64(p.Role))
	a, who := asset.Word(), p.Participant.Word()
	for i, w := range [...][32]byte{chain, house, cycle, a, who, amount, role} {
		copy(b[32*i:], w[:])
	}
	return evm.Keccak256(b[:])
}

// statementLeaf returns a position's leaf of Q.
func statementLeaf(leaf, statement evm.Hash) evm.Hash {
	return evm.Keccak256([]byte{0x02}, leaf[:], statement[:])
}

// node is the parent of two nodes, which their order does not change.
func node(a, b evm.Hash) evm.Hash {
	if bytes.Compare(a[:], b[:]) > 0 {
		a, b = b, a
	}
	return evm.Keccak256(a[:], b[:])
}

// parents folds one level: pairs of neighbours, an odd last one with itself. each is parallel, or works as it does.
func parents(level []evm.Hash, each func(int, func(int))) []evm.Hash {
	const share = 256 // nodes, more than what it costs to start another core
	up := make([]evm.Hash, (len(level)+1)/2)
	each((len(up)+share-1)/share, func(part int) {
		for i := part * share; i < min((part+1)*share, len(up)); i++ {
			up[i] = node(level[2*i], level[min(2*i+1, len(level)-1)])
		}
	})
	return up
}

// tree is every level of a fold over at least one leaf, the leaves first.
//
// The contract folds chunks of 2^h leaves one at a time and then the chunks' roots. Since chunks are aligned and a last,
// shorter one is folded through all h levels, that gives the same nodes as folding the whole list, whatever h.
type tree [][]evm.Hash

func newTree(leaves []evm.Hash, each func(int, func(int))) tree {
	t := tree{leaves}
	for len(t[len(t)-1]) > 1 {
		t = append(t, parents(t[len(t)-1], each))
	}
	return t
}

func (t tree) root() evm.Hash { return t[len(t)-1][0] }

// proof returns the siblings on the way from a leaf to the root.
func (t tree) proof(i uint64) []evm.Hash {
	siblings := make([]evm.Hash, 0, len(t)-1)
	for _, level := range t[:len(t)-1] {
		siblings = append(siblings, level[min(i^1, uint64(len(level)-1))])
		i /= 2
	}
	return siblings
}

// VerifyProof reports whether siblings lead from leaf to root, as every client of the chain's cycles checks it.
func VerifyProof(leaf, root evm.Hash, siblings []evm.Hash) bool {
	for _, s := range siblings {
		leaf = node(leaf, s)
	}
	return leaf == root
}

// fold builds R and Q over a cycle's positions.
func (h *House) fold(c CycleRef, ps []Position) (r, q tree) {
	id := c.ID()
	rs, qs := make([]evm.Hash, len(ps)), make([]evm.Hash, len(ps))
	const share = 128 // positions
	h.atLeisure((len(ps)+share-1)/share, func(part int) {
		for i := part * share; i < min((part+1)*share, len(ps)); i++ {
			rs[i] = leaf(h.Deployment, id, c.Asset, ps[i])
			qs[i] = statementLeaf(rs[i], ps[i].Statement)
		}
	})
	return newTree(rs, h.atLeisure), newTree(qs, h.atLeisure)
}
