package devchain_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha512"
	"encoding/binary"
	"math/big"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/ethereum/go-ethereum/params"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/devchain"
)

var (
	alice = devchain.Accounts()[0]
	bob   = devchain.Accounts()[1].Address()
)

func start(t *testing.T, c devchain.Config) (*devchain.Chain, *ethclient.Client) {
	t.Helper()
	chain, err := devchain.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { chain.Close() })
	return chain, dial(t, chain.URL())
}

func dial(t *testing.T, url string) *ethclient.Client {
	t.Helper()
	client, err := ethclient.DialContext(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// pay sends one wei from alice to bob and returns the transaction's hash.
func pay(t *testing.T, client *ethclient.Client, nonce uint64) common.Hash {
	t.Helper()
	key, err := crypto.ToECDSA(alice.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	to := common.Address(bob)
	tx, err := types.SignNewTx(key, types.LatestSignerForChainID(big.NewInt(devchain.DefaultChainID)), &types.DynamicFeeTx{
		ChainID: big.NewInt(devchain.DefaultChainID), Nonce: nonce, To: &to, Value: big.NewInt(1), Gas: 21000,
		GasTipCap: big.NewInt(100_000_000), GasFeeCap: big.NewInt(100_000_000),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.SendTransaction(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	return tx.Hash()
}

func mine(t *testing.T, chain *devchain.Chain, n int) {
	t.Helper()
	if err := chain.Mine(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

func minedIn(t *testing.T, client *ethclient.Client, tx common.Hash) uint64 {
	t.Helper()
	receipt, err := client.TransactionReceipt(t.Context(), tx)
	if err != nil {
		return 0
	}
	return receipt.BlockNumber.Uint64()
}

func TestManualChainMinesOnlyWhenAsked(t *testing.T) {
	t.Parallel()
	began := time.Now()
	chain, client := start(t, devchain.Config{Manual: true, Genesis: time.Unix(1_700_000_000, 0)})
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the start took %v, more than 2 s", took)
	}
	tx := pay(t, client, 0)
	if got := minedIn(t, client, tx); got != 0 {
		t.Fatalf("mined in block %d before Mine", got)
	}
	mine(t, chain, 3)
	if got := minedIn(t, client, tx); got != 1 {
		t.Errorf("mined in block %d, want 1", got)
	}
	if chain.Height() != 3 || chain.Time().Unix() != 1_700_000_003 {
		t.Errorf("height %d at %d, want 3 at 1700000003", chain.Height(), chain.Time().Unix())
	}
	if err := chain.AdvanceTime(time.Hour); err != nil {
		t.Fatal(err)
	}
	mine(t, chain, 2)
	if got := chain.Time().Unix(); got != 1_700_000_005+3600 {
		t.Errorf("an hour later the clock says %d", got)
	}
}

func TestChainIDIsAsAsked(t *testing.T) {
	t.Parallel()
	_, client := start(t, devchain.Config{Manual: true, ChainID: 84532})
	id, err := client.ChainID(t.Context())
	if err != nil || id.Uint64() != 84532 {
		t.Errorf("chain id %v, %v", id, err)
	}
}

func TestAccountsHoldEtherAndDollars(t *testing.T) {
	t.Parallel()
	_, client := start(t, devchain.Config{Manual: true})
	token := common.Address(devchain.TestDollar)
	read := func(signature string, args ...[]byte) *big.Int {
		selector := evm.Keccak256([]byte(signature))
		out, err := client.CallContract(t.Context(), ethereum.CallMsg{To: &token, Data: append(selector[:4:4], bytes.Join(args, nil)...)}, nil)
		if err != nil {
			t.Fatal(signature, err)
		}
		return new(big.Int).SetBytes(out)
	}
	const units = devchain.Dollars * 1_000_000
	for i, key := range devchain.Accounts() {
		owner := key.Address().Word()
		if got := read("balanceOf(address)", owner[:]); got.Uint64() != units {
			t.Errorf("account %d has %v units of the test dollar, want %d", i, got, units)
		}
		ether, err := client.BalanceAt(t.Context(), common.Address(key.Address()), nil)
		if want := new(big.Int).Mul(big.NewInt(devchain.Ether), big.NewInt(params.Ether)); err != nil || ether.Cmp(want) != 0 {
			t.Errorf("account %d has %v wei, %v", i, ether, err)
		}
	}
	if got := read("totalSupply()"); got.Uint64() != 10*units {
		t.Errorf("total supply is %v", got)
	}
	if got := read("decimals()"); got.Uint64() != 6 {
		t.Errorf("the token has %v decimals", got)
	}
}

func TestReorgFates(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name      string
		fate      devchain.Fate
		inBranch  bool // mined by the branch itself
		afterMine bool // mined once another block is made
	}{
		{"requeued transactions wait for the next block", devchain.Requeue, false, true},
		{"included transactions are in the branch", devchain.Include, true, true},
		{"forgotten transactions never come back", devchain.Forget, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			chain, client := start(t, devchain.Config{Manual: true})
			mine(t, chain, 2)
			tx := pay(t, client, 0)
			mine(t, chain, 3)
			before, err := client.HeaderByNumber(t.Context(), big.NewInt(3))
			if err != nil {
				t.Fatal(err)
			}
			if err := chain.Reorg(t.Context(), 3, test.fate); err != nil {
				t.Fatal(err)
			}
			after, err := client.HeaderByNumber(t.Context(), big.NewInt(3))
			if err != nil {
				t.Fatal(err)
			}
			if before.Hash() == after.Hash() || before.ParentHash != after.ParentHash {
				t.Error("block 3 was not replaced on the same parent")
			}
			if chain.Height() != 6 {
				t.Errorf("height %d, want 6: a branch longer by one", chain.Height())
			}
			if got := minedIn(t, client, tx) != 0; got != test.inBranch {
				t.Errorf("mined in the branch: %v", got)
			}
			mine(t, chain, 1)
			if got := minedIn(t, client, tx) != 0; got != test.afterMine {
				t.Errorf("mined after another block: %v", got)
			}
		})
	}
}

func TestReorgRefusesWhatIsFinal(t *testing.T) {
	t.Parallel()
	chain, _ := start(t, devchain.Config{Manual: true})
	mine(t, chain, 70)
	for _, depth := range []int{0, -1, devchain.FinalizedDepth} {
		if err := chain.Reorg(t.Context(), depth, devchain.Requeue); err == nil {
			t.Errorf("a reorg of %d blocks went through", depth)
		}
	}
	if err := chain.Reorg(t.Context(), devchain.FinalizedDepth-1, devchain.Requeue); err != nil {
		t.Error(err)
	}
}

func TestTickingChainRefusesManualControl(t *testing.T) {
	t.Parallel()
	chain, _ := start(t, devchain.Config{})
	if chain.Mine(t.Context(), 1) == nil || chain.Reorg(t.Context(), 1, devchain.Requeue) == nil || chain.AdvanceTime(time.Second) == nil {
		t.Error("a ticking chain was driven by hand")
	}
}

func TestOneBlockPerWallSecond(t *testing.T) {
	t.Parallel()
	_, client := start(t, devchain.Config{})
	first, err := client.HeaderByNumber(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	tx := pay(t, client, 0)
	deadline := time.Now().Add(10 * time.Second)
	for {
		head, err := client.HeaderByNumber(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if now := uint64(time.Now().Unix()); head.Time > now {
			t.Fatalf("block %d is dated %d s ahead of the wall clock", head.Number, head.Time-now)
		}
		blocks, seconds := head.Number.Uint64()-first.Number.Uint64(), head.Time-first.Time
		if blocks > seconds {
			t.Fatalf("%d blocks in %d seconds", blocks, seconds)
		}
		if head.BaseFee.Cmp(big.NewInt(100_000_000)) > 0 {
			t.Fatalf("base fee %v wei is above 0.1 gwei", head.BaseFee)
		}
		if blocks >= 3 {
			if seconds > blocks+1 { // a loaded machine may lose one
				t.Errorf("%d blocks in %d seconds", blocks, seconds)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("only %d blocks in ten seconds", blocks)
		}
		<-time.After(20 * time.Millisecond)
	}
	if minedIn(t, client, tx) == 0 {
		t.Error("the transaction is not mined")
	}
}

// A pool that holds more than a block's target of endless loops cannot make the base fee climb: the time to build a block
// ends first, far below the target.
func TestBusyBlocksLeaveTheBaseFeeAlone(t *testing.T) {
	t.Parallel()
	chain, client := start(t, devchain.Config{Manual: true})
	id := big.NewInt(devchain.DefaultChainID)
	const gas, perAccount = 1 << 24, 40 // with ten accounts, 6.7 billion gas
	for _, account := range devchain.Accounts() {
		key, err := crypto.ToECDSA(account.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		for nonce := range uint64(perAccount) {
			tx, err := types.SignNewTx(key, types.LatestSignerForChainID(id), &types.DynamicFeeTx{
				ChainID: id, Nonce: nonce, Gas: gas, GasTipCap: big.NewInt(100_000_000), GasFeeCap: big.NewInt(100_000_000),
				Data: []byte{0x5b, 0x60, 0x00, 0x56}, // a constructor that jumps back to its beginning
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := client.SendTransaction(t.Context(), tx); err != nil {
				t.Fatal(err)
			}
		}
	}
	mine(t, chain, 1)
	busy, err := client.HeaderByNumber(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	mine(t, chain, 1)
	next, err := client.HeaderByNumber(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a busy block used %d million gas of %d, base fee %v then %v wei", busy.GasUsed/1e6, busy.GasLimit/1e6, busy.BaseFee, next.BaseFee)
	if busy.GasUsed == 0 {
		t.Errorf("the block is empty")
	}
	if next.BaseFee.Cmp(busy.BaseFee) > 0 {
		t.Errorf("the base fee rose from %v to %v wei", busy.BaseFee, next.BaseFee)
	}
}

func TestDirectoryContinuesTheChain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	chain, client := start(t, devchain.Config{Manual: true, Dir: dir})
	tx := pay(t, client, 0)
	mine(t, chain, 5)
	head, err := client.HeaderByNumber(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := chain.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := devchain.Start(t.Context(), devchain.Config{Manual: true, Dir: dir, ChainID: 1}); err == nil {
		t.Error("the directory was opened as another chain")
	}
	again, client := start(t, devchain.Config{Manual: true, Dir: dir})
	same, err := client.HeaderByNumber(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if same.Hash() != head.Hash() || minedIn(t, client, tx) != 1 {
		t.Errorf("continued at block %v %v, want %v %v", same.Number, same.Hash(), head.Number, head.Hash())
	}
	mine(t, again, 1)
	if again.Height() != 6 {
		t.Errorf("height %d, want 6", again.Height())
	}
}

func TestListensOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	if _, err := devchain.Start(t.Context(), devchain.Config{Listen: "0.0.0.0:0"}); err == nil {
		t.Error("public keys were offered to the network")
	}
}

// TestKilledProcessLosesEmptyBlocksOnly runs the chain in a process that is killed without warning.
func TestKilledProcessLosesEmptyBlocksOnly(t *testing.T) {
	if dir := os.Getenv("DEVCHAIN_TEST_DIR"); dir != "" {
		chain, client := start(t, devchain.Config{Manual: true, Dir: dir})
		mine(t, chain, 20)
		tx := pay(t, client, 0)
		mine(t, chain, 1)
		if minedIn(t, client, tx) != 21 {
			t.Fatal("not mined in block 21")
		}
		mine(t, chain, 5)
		self, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = self.Kill()
		}
		t.Fatal("still alive", err)
	}
	t.Parallel()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestKilledProcessLosesEmptyBlocksOnly$")
	child.Env = append(os.Environ(), "DEVCHAIN_TEST_DIR="+dir)
	if out, err := child.CombinedOutput(); err == nil || strings.Contains(string(out), "FAIL") {
		t.Fatalf("the child ended with %v, want it killed:\n%s", err, out)
	}
	chain, client := start(t, devchain.Config{Manual: true, Dir: dir})
	if height := chain.Height(); height < 21 || height > 26 {
		t.Errorf("continues at block %d, want 21 to 26", height)
	}
	nonce, err := client.NonceAt(t.Context(), common.Address(alice.Address()), nil)
	if err != nil || nonce != 1 {
		t.Errorf("nonce %d, %v: the payment is lost", nonce, err)
	}
	mine(t, chain, 10)
}

// TestAccountsAreTheMnemonics derives the keys anew, BIP-39 then BIP-32.
func TestAccountsAreTheMnemonics(t *testing.T) {
	t.Parallel()
	mnemonic := strings.Repeat("test ", 11) + "junk"
	seed, err := pbkdf2.Key(sha512.New, mnemonic, []byte("mnemonic"), 2048, 64)
	if err != nil {
		t.Fatal(err)
	}
	node := sum(([]byte)("Bitcoin seed"), seed)
	const hardened = 1 << 31
	for _, index := range []uint32{44 + hardened, 60 + hardened, hardened, 0} {
		node = child(node, index)
	}
	for i, key := range devchain.Accounts() {
		if secret := child(node, uint32(i))[:32]; string(secret) != string(key.Bytes()) {
			t.Errorf("account %d is not the mnemonic's", i)
		}
	}
	if got := devchain.Accounts()[0].Address(); got != evm.MustAddress("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266") {
		t.Errorf("account 0 is %v", got)
	}
}

func sum(key []byte, parts ...[]byte) []byte {
	mac := hmac.New(sha512.New, key)
	for _, part := range parts {
		mac.Write(part)
	}
	return mac.Sum(nil)
}

// child derives a BIP-32 child of a node, which is 32 bytes of key and 32 of chain code.
func child(node []byte, index uint32) []byte {
	data := append([]byte{0}, node[:32]...)
	if index < 1<<31 {
		data = secp256k1.PrivKeyFromBytes(node[:32]).PubKey().SerializeCompressed()
	}
	out := sum(node[32:], binary.BigEndian.AppendUint32(data, index))
	var left, parent secp256k1.ModNScalar
	left.SetByteSlice(out[:32])
	parent.SetByteSlice(node[:32])
	left.Add(&parent)
	secret := left.Bytes()
	copy(out, secret[:])
	return out
}
