package contracts_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/consensys/gnark-crypto/ecc/bls12-381"
	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"

	"github.com/farthing402/farthing/contracts"
)

// vectors is the part of the reference's vectors that the contracts must reproduce.
type vectors struct {
	ClearingMerkle struct {
		Inputs struct {
			ChainID        uint64         `json:"chainId"`
			ClearingHouse  common.Address `json:"clearingHouse"`
			Asset          common.Address `json:"asset"`
			CycleIDText    string         `json:"cycleIdText"`
			CycleIDBytes32 common.Hash    `json:"cycleIdBytes32"`
		} `json:"inputs"`
		LeavesSorted []common.Hash `json:"leavesSorted"`
		Root         common.Hash   `json:"root"`
		Participants []struct {
			Participant common.Address `json:"participant"`
			Amount      string         `json:"amount"`
			Role        string         `json:"role"`
			Leaf        common.Hash    `json:"leaf"`
			Proof       []common.Hash  `json:"proof"`
		} `json:"participants"`
		Calldata map[string]string `json:"calldata"`
	} `json:"clearingMerkle"`
	EventTopics map[string]common.Hash `json:"eventTopics"`
	Selectors   map[string]string      `json:"selectors"`
	Errors      struct {
		Core4Mica     map[string]string `json:"core4Mica"`
		ClearingHouse map[string]string `json:"clearingHouse"`
	} `json:"errorSelectors"`
	Certificate struct {
		Claims         string        `json:"claims"`
		SignatureWords []common.Hash `json:"signatureSolidityWords"`
		KeyWords       []common.Hash `json:"publicKeySolidityWords"`
		SecretKey      string        `json:"secretKey"`
	} `json:"certificateV1"`
}

func readVectors(t *testing.T) (v vectors) {
	t.Helper()
	text, err := os.ReadFile("testdata/4mica.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func parseABI(t *testing.T, a contracts.Artifact) abi.ABI {
	t.Helper()
	parsed, err := abi.JSON(bytes.NewReader(a.ABI))
	if err != nil {
		t.Fatalf("%s: %v", a.Name, err)
	}
	return parsed
}

// Every function of the cycle generation that clients call is on one of the two contracts, under its selector.
func TestSelectorsOfTheReference(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	have := map[string]string{}
	for _, a := range []contracts.Artifact{contracts.Vault, contracts.ClearingHouse} {
		for _, m := range parseABI(t, a).Methods {
			have[m.Sig] = "0x" + hex.EncodeToString(m.ID)
		}
	}
	if len(v.Selectors) < 30 {
		t.Fatalf("only %d selectors in the vectors", len(v.Selectors))
	}
	for sig, want := range v.Selectors {
		if have[sig] != want {
			t.Errorf("%s: have %q, want %s", sig, have[sig], want)
		}
	}
}

// Every function of the reference is answered by the contract that has it: a view with values of its types, anything else
// with values too or with a refusal that the contract names. An unknown selector would be refused without a word.
func TestEveryFunctionOfTheReferenceAnswers(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	contract := func(sig string) (common.Address, abi.ABI, abi.Method) {
		for at, parsed := range map[common.Address]abi.ABI{c.vault: c.vaultABI, c.house: c.houseABI} {
			for _, m := range parsed.Methods {
				if m.Sig == sig {
					return at, parsed, m
				}
			}
		}
		t.Fatalf("nobody has %s", sig)
		panic("not reached")
	}
	for sig := range readVectors(t).Selectors {
		at, parsed, m := contract(sig)
		args := make([]any, len(m.Inputs))
		for i, in := range m.Inputs {
			args[i] = reflect.Zero(in.Type.GetType()).Interface()
			if in.Type.T == abi.AddressTy {
				args[i] = c.usd // as an asset; as an owner it has nothing
			}
			if in.Type.GetType() == reflect.TypeFor[*big.Int]() {
				args[i] = big.NewInt(1)
			}
		}
		data, err := m.Inputs.Pack(args...)
		if err != nil {
			t.Fatalf("%s: %v", sig, err)
		}
		out, err := c.backend.Client().CallContract(c.ctx, ethereum.CallMsg{From: addr(c.operator), To: &at, Data: append(m.ID, data...)}, nil)
		if err == nil {
			if _, err := m.Outputs.Unpack(out); err != nil {
				t.Errorf("%s returns %x: %v", sig, out, err)
			}
			continue
		}
		if _, named := parsed.Errors[c.reason(err)]; !named || m.IsConstant() {
			t.Errorf("%s is refused with %s", sig, c.reason(err))
		}
	}
	// What clients compare certificates with.
	for version, tag := range map[uint64]string{1: "4MICA_CORE_GUARANTEE_V1", 2: "4MICA_CORE_GUARANTEE_V2"} {
		out := c.read(c.vault, c.vaultABI, "getGuaranteeVersionConfig", version)
		chain, vault := common.BigToHash(c.id), common.BytesToHash(c.vault[:])
		want := crypto.Keccak256Hash(common.BigToHash(big.NewInt(96)).Bytes(), chain[:], vault[:],
			common.BigToHash(big.NewInt(int64(len(tag)))).Bytes(), common.RightPadBytes([]byte(tag), 32))
		if got := common.Hash(out[1].([32]byte)); got != want || !out[3].(bool) {
			t.Errorf("version %d: domain %s, enabled %v; want %s", version, got, out[3], want)
		}
	}
	if out := c.read(c.vault, c.vaultABI, "getGuaranteeVersionConfig", uint64(3)); out[3].(bool) {
		t.Error("version 3 is enabled")
	}
}

// Every event of the reference that has a meaning here has the reference's topic.
func TestEventTopicsOfTheReference(t *testing.T) {
	t.Parallel()
	// These belong to tabs, which the cycle generation does not have.
	tabs := map[string]bool{
		"RecipientRemunerated(uint256,address,uint256)":    true,
		"TabPaid(uint256,address,address,address,uint256)": true,
		"PaymentRecorded(uint256,address,uint256)":         true,
	}
	have := map[string]common.Hash{}
	for _, a := range []contracts.Artifact{contracts.Vault, contracts.ClearingHouse} {
		for _, e := range parseABI(t, a).Events {
			have[e.Sig] = e.ID
		}
	}
	for sig, want := range readVectors(t).EventTopics {
		if have[sig] != want && !tabs[sig] {
			t.Errorf("%s: have %s, want %s", sig, have[sig], want)
		}
	}
}

// An error that shares its name with one of the reference shares its selector too, and those that stock clients meet
// in this mechanism exist.
func TestErrorSelectorsOfTheReference(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	for _, c := range []struct {
		artifact contracts.Artifact
		want     map[string]string
		needed   []string
	}{
		{contracts.Vault, v.Errors.Core4Mica, []string{
			"AmountZero", "InsufficientAvailable", "GracePeriodNotElapsed", "NoWithdrawalRequested", "InvalidSignature",
			"UnsupportedAsset", "EnforcedPause", "DirectTransferNotAllowed",
		}},
		{contracts.ClearingHouse, v.Errors.ClearingHouse, []string{
			"AmountZero", "CycleAlreadyCommitted", "CycleNotFound", "InvalidCycleStatus", "InvalidDeadline", "InvalidProof",
			"AlreadyPaid", "AlreadyClaimed", "AlreadyDefaulted", "PaymentFinalityPending",
		}},
		// These come out of the Vault although the reference has them in its ClearingHouse.
		{contracts.Vault, v.Errors.ClearingHouse, []string{"ExactPaymentRequired", "NativeTransferFailed"}},
	} {
		parsed := parseABI(t, c.artifact)
		want := map[string]string{}
		for sig, selector := range c.want {
			want[strings.SplitN(sig, "(", 2)[0]] = selector
		}
		for name, e := range parsed.Errors {
			if w, shared := want[name]; shared && "0x"+hex.EncodeToString(e.ID[:4]) != w {
				t.Errorf("%s %s: have %x, want %s", c.artifact.Name, e.Sig, e.ID[:4], w)
			}
		}
		for _, name := range c.needed {
			if _, ok := parsed.Errors[name]; !ok {
				t.Errorf("%s has no error %s", c.artifact.Name, name)
			}
		}
	}
}

// The calldata that stock clients send is what our ABI packs.
func TestCalldataOfTheReference(t *testing.T) {
	t.Parallel()
	m := readVectors(t).ClearingMerkle
	house := parseABI(t, contracts.ClearingHouse)
	proof := func(i int) [][32]byte {
		out := make([][32]byte, 0, len(m.Participants[i].Proof))
		for _, h := range m.Participants[i].Proof {
			out = append(out, h)
		}
		return out
	}
	id := [32]byte(m.Inputs.CycleIDBytes32)
	for name, args := range map[string][]any{
		"payNetDebit":    {id, big.NewInt(70), proof(0)},
		"claimNetCredit": {id, big.NewInt(40), proof(2)},
		"markDefaulted":  {id, m.Participants[0].Participant, big.NewInt(70), proof(0)},
	} {
		got, err := house.Pack(name, args...)
		if err != nil {
			t.Fatal(err)
		}
		if want := m.Calldata[name]; "0x"+hex.EncodeToString(got) != want {
			t.Errorf("%s:\n have 0x%x\n want %s", name, got, want)
		}
	}
}

// The reference's tree has its leaves sorted by leaf and ours by participant: the leaf and the fold are the same, so its
// root and proofs come out of our fold over its order.
func TestLeafAndFoldOfTheReference(t *testing.T) {
	t.Parallel()
	m := readVectors(t).ClearingMerkle
	if got := crypto.Keccak256Hash([]byte(m.Inputs.CycleIDText)); got != m.Inputs.CycleIDBytes32 {
		t.Fatalf("cycle id: have %s, want %s", got, m.Inputs.CycleIDBytes32)
	}
	if got := fold(m.LeavesSorted); got != m.Root {
		t.Errorf("root: have %s, want %s", got, m.Root)
	}
	for _, p := range m.Participants {
		amount, _ := new(big.Int).SetString(p.Amount, 10)
		role := byte(0)
		if p.Role == "NET_CREDITOR" {
			role = 1
		}
		chain := new(big.Int).SetUint64(m.Inputs.ChainID)
		got := leaf(chain, m.Inputs.ClearingHouse, m.Inputs.CycleIDBytes32, m.Inputs.Asset, position{p.Participant, role, amount, common.Hash{}})
		if got != p.Leaf {
			t.Errorf("leaf of %s: have %s, want %s", p.Participant, got, p.Leaf)
		}
		node := p.Leaf
		for _, sibling := range p.Proof {
			node = parent(node, sibling)
		}
		if node != m.Root {
			t.Errorf("proof of %s leads to %s", p.Participant, node)
		}
	}
}

func TestMatchesMasksImmutablesOnly(t *testing.T) {
	t.Parallel()
	for _, a := range []contracts.Artifact{contracts.Vault, contracts.ClearingHouse, contracts.TestDollar} {
		if !a.Matches(a.Deployed) {
			t.Errorf("%s does not match itself", a.Name)
		}
		other := bytes.Clone(a.Deployed)
		other[0] ^= 1
		if a.Matches(other) || a.Matches(other[1:]) || a.Matches(nil) {
			t.Errorf("%s matches other code", a.Name)
		}
		if len(a.Deployed) > 24576 {
			t.Errorf("%s has %d bytes", a.Name, len(a.Deployed))
		}
	}
}

// position is one participant of a book, as the contract reads it from 69 bytes.
type position struct {
	who       common.Address
	role      byte
	amount    *big.Int
	statement common.Hash
}

func pack(positions []position) (out []byte) {
	for _, p := range positions {
		out = append(out, p.who[:]...)
		out = append(out, p.role)
		out = append(out, common.LeftPadBytes(p.amount.Bytes(), 16)...)
		out = append(out, p.statement[:]...)
	}
	return out
}

func leaf(chain *big.Int, house common.Address, id common.Hash, asset common.Address, p position) common.Hash {
	word := func(b []byte) []byte { return common.LeftPadBytes(b, 32) }
	return crypto.Keccak256Hash(word(chain.Bytes()), word(house[:]), id[:], word(asset[:]), word(p.who[:]),
		word(p.amount.Bytes()), word([]byte{p.role}))
}

func parent(a, b common.Hash) common.Hash {
	if bytes.Compare(a[:], b[:]) > 0 {
		a, b = b, a
	}
	return crypto.Keccak256Hash(a[:], b[:])
}

func level(nodes []common.Hash) (up []common.Hash) {
	for i := 0; i < len(nodes); i += 2 {
		up = append(up, parent(nodes[i], nodes[min(i+1, len(nodes)-1)]))
	}
	return up
}

func fold(nodes []common.Hash) common.Hash {
	for len(nodes) > 1 {
		nodes = level(nodes)
	}
	return nodes[0]
}

func prove(nodes []common.Hash, i int) (proof [][32]byte) {
	for len(nodes) > 1 {
		proof = append(proof, nodes[min(i^1, len(nodes)-1)])
		nodes, i = level(nodes), i/2
	}
	return proof
}

// g1 and g2 are the tuples of the ABI.
type g1 struct {
	XA [32]byte `abi:"x_a"`
	XB [32]byte `abi:"x_b"`
	YA [32]byte `abi:"y_a"`
	YB [32]byte `abi:"y_b"`
}

type g2 struct {
	XC0A [32]byte `abi:"x_c0_a"`
	XC0B [32]byte `abi:"x_c0_b"`
	XC1A [32]byte `abi:"x_c1_a"`
	XC1B [32]byte `abi:"x_c1_b"`
	YC0A [32]byte `abi:"y_c0_a"`
	YC0B [32]byte `abi:"y_c0_b"`
	YC1A [32]byte `abi:"y_c1_a"`
	YC1B [32]byte `abi:"y_c1_b"`
}

func g1Of(w []common.Hash) g1 { return g1{w[0], w[1], w[2], w[3]} }

func g2Of(w []common.Hash) g2 { return g2{w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]} }

// blsSign signs under the ciphersuite of certificates and returns the words of the point.
func blsSign(t *testing.T, secret *big.Int, message []byte) []common.Hash {
	t.Helper()
	h, err := bls12381.HashToG2(message, []byte("BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_NUL_"))
	if err != nil {
		t.Fatal(err)
	}
	var sig bls12381.G2Affine
	sig.ScalarMultiplication(&h, secret)
	var words []common.Hash
	for _, e := range [][48]byte{sig.X.A0.Bytes(), sig.X.A1.Bytes(), sig.Y.A0.Bytes(), sig.Y.A1.Bytes()} {
		words = append(words, common.BytesToHash(e[:16]), common.BytesToHash(e[16:]))
	}
	return words
}
