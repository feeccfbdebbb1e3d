package clearing

import (
	"encoding/json"
	"os"
	"testing"

	"pgregory.net/rapid"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

// The leaf and the fold are those that 4Mica's clients verify. Their tree is sorted by leaf and ours by participant,
// which a verifier cannot tell.
func TestPublishedTree(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile("testdata/clearing-merkle.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Inputs struct {
			ChainID       uint64      `json:"chainId"`
			ClearingHouse evm.Address `json:"clearingHouse"`
			Asset         evm.Address `json:"asset"`
			Text          string      `json:"cycleIdText"`
			ID            evm.Hash    `json:"cycleIdBytes32"`
		} `json:"inputs"`
		Leaves       []evm.Hash `json:"leavesSorted"`
		Root         evm.Hash   `json:"root"`
		Participants []struct {
			Participant evm.Address  `json:"participant"`
			Amount      money.Amount `json:"amount"`
			Role        string       `json:"role"`
			Leaf        evm.Hash     `json:"leaf"`
			Proof       []evm.Hash   `json:"proof"`
		} `json:"participants"`
	}
	if err := json.Unmarshal(file, &v); err != nil {
		t.Fatal(err)
	}
	id, err := ParseCycleID(v.Inputs.Text)
	if err != nil || id != v.Inputs.ID {
		t.Errorf("cycle id %s, %v, want %s", id, err, v.Inputs.ID)
	}
	d := guarantee.Deployment{ChainID: v.Inputs.ChainID, ClearingHouse: v.Inputs.ClearingHouse}
	tree := newTree(v.Leaves, parallel)
	if tree.root() != v.Root {
		t.Errorf("root %s, want %s", tree.root(), v.Root)
	}
	if len(v.Participants) != 5 {
		t.Fatalf("%d participants", len(v.Participants))
	}
	for _, p := range v.Participants {
		role := map[string]Role{"NET_DEBTOR": Debtor, "NET_CREDITOR": Creditor}[p.Role]
		l := leaf(d, id, v.Inputs.Asset, Position{Participant: p.Participant, Amount: p.Amount, Role: role})
		if l != p.Leaf {
			t.Errorf("leaf of %s is %s, want %s", p.Participant, l, p.Leaf)
		}
		for i, sorted := range v.Leaves {
			if sorted != l {
				continue
			}
			got := tree.proof(uint64(i))
			if len(got) != len(p.Proof) {
				t.Fatalf("proof of %s has %d siblings, want %d", p.Participant, len(got), len(p.Proof))
			}
			for k := range got {
				if got[k] != p.Proof[k] {
					t.Errorf("sibling %d of %s is %s, want %s", k, p.Participant, got[k], p.Proof[k])
				}
			}
		}
		if !VerifyProof(l, v.Root, p.Proof) {
			t.Errorf("proof of %s does not hold", p.Participant)
		}
	}
}

// Folding chunk by chunk, as the contract does, gives the root of the whole list, whatever the height.
func TestChunksFoldToTheWholeTree(t *testing.T) {
	t.Parallel()
	for height := range 7 {
		for n := 1; n <= 130; n++ {
			leaves := make([]evm.Hash, n)
			for i := range leaves {
				leaves[i] = evm.Keccak256([]byte{byte(height), byte(n), byte(i)})
			}
			var roots []evm.Hash
			for i := 0; i < n; i += 1 << height {
				levels := height
				if i == 0 {
					levels = 0
				}
				roots = append(roots, foldLevels(leaves[i:min(n, i+1<<height)], levels))
			}
			if got, want := newTree(leaves, parallel).root(), foldLevels(roots, 0); got != want {
				t.Fatalf("%d leaves in chunks of 2^%d: %s, want %s", n, height, got, want)
			}
		}
	}
}

func TestEveryProofHoldsAndNoOther(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 33; n++ {
		leaves := make([]evm.Hash, n)
		for i := range leaves {
			leaves[i] = evm.Keccak256([]byte{byte(n), byte(i)})
		}
		tree := newTree(leaves, parallel)
		for i, l := range leaves {
			proof := tree.proof(uint64(i))
			if !VerifyProof(l, tree.root(), proof) {
				t.Errorf("leaf %d of %d is not proven", i, n)
			}
			if other := evm.Keccak256(l[:]); VerifyProof(other, tree.root(), proof) {
				t.Errorf("a stranger is proven in place of leaf %d of %d", i, n)
			}
		}
	}
}

// A statement's tree gives other roots for other entries, and its sums are those of its entries.
func TestStatementSums(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 300).Draw(t, "entries")
		entries := make([]Entry, n)
		var out, in uint64
		for i := range entries {
			amount := rapid.Uint64Range(0, 1000).Draw(t, "amount")
			d := Direction(rapid.IntRange(0, 1).Draw(t, "direction"))
			entries[i] = Entry{Direction: d, Digest: evm.Keccak256([]byte{byte(i), byte(i >> 8)}), Amount: money.Units(amount)}
			if d == Out {
				out += amount
			} else {
				in += amount
			}
		}
		s, err := newStatement(Cycle{}, evm.Address{1}, entries)
		if err != nil || units(s.Out) != out || units(s.In) != in {
			t.Fatalf("sums %s and %s, %v, want %d and %d", s.Out, s.In, err, out, in)
		}
		changed := rapid.SampledFrom(s.Entries).Draw(t, "changed")
		for i := range s.Entries {
			if s.Entries[i].Digest == changed.Digest {
				s.Entries[i].Evidence[0] ^= 1
			}
		}
		if root, err := entriesRoot(s.Entries); err != nil || root.hash == s.Root {
			t.Fatalf("another entry, the same root: %v", err)
		}
	})
}

// The tree over entries, spelled out for 17 of them: a full node, one with a single child, and the root above.
func TestStatementTreeShape(t *testing.T) {
	t.Parallel()
	entries := make([]Entry, 17)
	for i := range entries {
		entries[i] = Entry{Direction: Out, Digest: evm.Hash{byte(i)}, Amount: money.Units(uint64(i))}
	}
	child := func(b []byte, h evm.Hash, out, in uint64) []byte {
		o, i := money.Units(out).Word(), money.Units(in).Word()
		b = append(b, h[:]...)
		b = append(b, o[16:]...)
		return append(b, i[16:]...)
	}
	pad := func(b []byte) []byte { return append(b, make([]byte, 1+16*64-len(b))...) }
	first := []byte{0x04}
	for i := range 16 {
		first = child(first, entries[i].hash(), uint64(i), 0)
	}
	second := pad(child([]byte{0x04}, entries[16].hash(), 16, 0))
	top := child([]byte{0x04}, evm.Keccak256(first), 120, 0)
	top = pad(child(top, evm.Keccak256(second), 16, 0))
	root, err := entriesRoot(entries)
	if err != nil || root.hash != evm.Keccak256(top) || units(root.out) != 136 {
		t.Errorf("root %s with %s, %v", root.hash, root.out, err)
	}
	if one, err := entriesRoot(entries[:1]); err != nil || one.hash != entries[0].hash() {
		t.Errorf("root of one entry %s, %v", one.hash, err)
	}
}

func TestPositionBytes(t *testing.T) {
	t.Parallel()
	p := Position{Participant: evm.Address{1, 19: 2}, Role: Creditor, Amount: money.Units(0x0304), Statement: evm.Hash{5, 31: 6}}
	got := p.encode(nil)
	want := make([]byte, 69)
	want[0], want[19], want[20], want[35], want[36], want[37], want[68] = 1, 2, 1, 3, 4, 5, 6
	if string(got) != string(want) {
		t.Errorf("%x, want %x", got, want)
	}
}
