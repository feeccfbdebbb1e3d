package contracts_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/holiman/uint256"

	"github.com/farthing402/farthing/contracts"
	"github.com/farthing402/farthing/contracts/contractstest"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/devchain"
)

// vectorClock is when the reference's vectors were made; what they sign ends a minute later.
const vectorClock = 1767225600

// dev is a development chain with base-sepolia's id, where the vectors were made, and its parts by name.
type dev struct {
	t      *testing.T
	node   *devchain.Chain
	client *ethclient.Client
	abis   map[string]abi.ABI
	at     map[string]common.Address

	payer, facilitator *evm.PrivateKey // accounts 1 and 2, as in the vectors
	shop               common.Address
}

func newDev(t *testing.T) *dev {
	t.Helper()
	d := &dev{t: t, abis: map[string]abi.ABI{}, at: map[string]common.Address{}, shop: common.HexToAddress("0x209693Bc6afc0C5328bA36FaF03C514EF312287C")}
	d.payer, d.facilitator = devchain.Accounts()[1], devchain.Accounts()[2]
	var err error
	d.node, err = devchain.Start(t.Context(), devchain.Config{Manual: true, ChainID: 84532, Genesis: time.Unix(vectorClock-1, 0)})
	d.must(err)
	t.Cleanup(func() { d.node.Close() })
	d.client, err = ethclient.DialContext(t.Context(), d.node.URL())
	d.must(err)
	t.Cleanup(d.client.Close)
	for _, c := range contracts.Canonical() {
		d.at[c.Artifact.Name], d.abis[c.Artifact.Name] = c.Address, parseABI(t, c.Artifact)
	}
	usdc, tether := parseABI(t, contracts.TestDollar), parseABI(t, contracts.TestTether)
	d.at["USDC"], d.abis["USDC"] = common.HexToAddress("0x036CbD53842c5426634e7929541eC2318f3dCF7e"), usdc
	d.at["USDT"], d.abis["USDT"] = common.Address(devchain.TestTether), tether
	d.node.Mine(t.Context(), 1)
	return d
}

func (d *dev) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// with returns the same chain for a subtest.
func (d *dev) with(t *testing.T) *dev {
	sub := *d
	sub.t = t
	return &sub
}

func (d *dev) now() *big.Int { return big.NewInt(d.node.Time().Unix()) }

// pack encodes a call; the method is a name or, where names are overloaded, a signature.
func (d *dev) pack(contract, method string, args ...any) []byte {
	d.t.Helper()
	a := d.abis[contract]
	for name, m := range a.Methods {
		if m.Sig == method {
			method = name
		}
	}
	data, err := a.Pack(method, args...)
	d.must(err)
	return data
}

// ask calls without sending, and returns what came back or the reason of a refusal.
func (d *dev) ask(from *evm.PrivateKey, to common.Address, data []byte) (out []byte, refusal string) {
	d.t.Helper()
	out, err := d.client.CallContract(d.t.Context(), ethereum.CallMsg{From: common.Address(from.Address()), To: &to, Data: data, Gas: 10_000_000}, nil)
	if err == nil {
		return out, ""
	}
	var withData interface{ ErrorData() any }
	if !errors.As(err, &withData) {
		return nil, err.Error()
	}
	text, _ := withData.ErrorData().(string)
	raw := common.FromHex(text)
	if reason, err := abi.UnpackRevert(raw); err == nil {
		return nil, reason
	}
	for _, a := range d.abis {
		if len(raw) < 4 {
			break
		}
		if e, err := a.ErrorByID([4]byte(raw)); err == nil {
			return nil, e.Sig
		}
	}
	return nil, "reverted with " + text
}

// refuses checks that a call is refused for a reason.
func (d *dev) refuses(from *evm.PrivateKey, contract string, data []byte, want string) {
	d.t.Helper()
	if _, got := d.ask(from, d.at[contract], data); got != want {
		d.t.Errorf("refused with %q, want %q", got, want)
	}
}

// send mines a transaction and returns its receipt, whatever became of it.
func (d *dev) send(from *evm.PrivateKey, to *common.Address, data []byte) *types.Receipt {
	d.t.Helper()
	return d.sendTx(from, &types.DynamicFeeTx{To: to, Data: data})
}

func (d *dev) sendTx(from *evm.PrivateKey, tx *types.DynamicFeeTx) *types.Receipt {
	d.t.Helper()
	tx.ChainID, tx.Gas, tx.GasFeeCap, tx.GasTipCap = big.NewInt(84532), 3_000_000, big.NewInt(1e8), big.NewInt(1e8)
	var err error
	tx.Nonce, err = d.client.PendingNonceAt(d.t.Context(), common.Address(from.Address()))
	d.must(err)
	return d.submit(from, tx)
}

func (d *dev) submit(from *evm.PrivateKey, data types.TxData) *types.Receipt {
	d.t.Helper()
	key, err := crypto.ToECDSA(from.Bytes())
	d.must(err)
	tx, err := types.SignNewTx(key, types.LatestSignerForChainID(big.NewInt(84532)), data)
	d.must(err)
	d.must(d.client.SendTransaction(d.t.Context(), tx))
	d.must(d.node.Mine(d.t.Context(), 1))
	receipt, err := d.client.TransactionReceipt(d.t.Context(), tx.Hash())
	d.must(err)
	return receipt
}

// does sends a call that must succeed.
func (d *dev) does(from *evm.PrivateKey, contract string, data []byte) *types.Receipt {
	d.t.Helper()
	to := d.at[contract]
	receipt := d.send(from, &to, data)
	if receipt.Status != types.ReceiptStatusSuccessful {
		_, why := d.ask(from, to, data)
		d.t.Fatalf("the transaction failed: %s", why)
	}
	return receipt
}

// create puts a contract on the chain through the deterministic deployer and names it.
func (d *dev) create(name string, a contracts.Artifact, args ...any) common.Address {
	d.t.Helper()
	d.abis[name] = parseABI(d.t, a)
	packed, err := d.abis[name].Pack("", args...)
	d.must(err)
	salt := crypto.Keccak256Hash([]byte(name))
	code := slices.Concat(a.Bytecode, packed)
	d.does(d.payer, "Deployer", append(salt[:], code...))
	d.at[name] = crypto.CreateAddress2(d.at["Deployer"], salt, crypto.Keccak256(code))
	return d.at[name]
}

// read returns the first value of a view.
func (d *dev) read(contract, method string, args ...any) any {
	d.t.Helper()
	out, refusal := d.ask(d.payer, d.at[contract], d.pack(contract, method, args...))
	if refusal != "" {
		d.t.Fatalf("%s: %s", method, refusal)
	}
	values, err := d.abis[contract].Unpack(method, out)
	d.must(err)
	return values[0]
}

func (d *dev) balance(token string, who common.Address) int64 {
	d.t.Helper()
	return d.read(token, "balanceOf", who).(*big.Int).Int64()
}

// approvePermit2 lets Permit2 move everything that the payer has of a token.
func (d *dev) approvePermit2(token string) {
	d.t.Helper()
	d.does(d.payer, token, d.pack(token, "approve", d.at["Permit2"], new(big.Int).SetBytes(bytes.Repeat([]byte{255}, 32))))
}

// hash is keccak256 over words: integers, addresses, hashes.
func hash(words ...any) common.Hash {
	var packed []byte
	for _, w := range words {
		switch w := w.(type) {
		case *big.Int:
			packed = append(packed, common.LeftPadBytes(w.Bytes(), 32)...)
		case common.Address:
			packed = append(packed, common.LeftPadBytes(w[:], 32)...)
		case common.Hash:
			packed = append(packed, w[:]...)
		case string: // a type, or any text: its hash
			packed = append(packed, crypto.Keccak256([]byte(w))...)
		default:
			panic(w)
		}
	}
	return crypto.Keccak256Hash(packed)
}

func digest(separator, structHash common.Hash) evm.Hash {
	return evm.TypedDigest(evm.Hash(separator), evm.Hash(structHash))
}

func (d *dev) sign(key *evm.PrivateKey, digest evm.Hash) []byte {
	d.t.Helper()
	sig, err := key.Sign(d.t.Context(), digest)
	d.must(err)
	return sig[:]
}

// The tuples of the ABI.
type (
	permissions struct {
		Token  common.Address
		Amount *big.Int
	}
	permitTransfer struct {
		Permitted permissions
		Nonce     *big.Int
		Deadline  *big.Int
	}
	batchTransfer struct {
		Permitted []permissions
		Nonce     *big.Int
		Deadline  *big.Int
	}
	transferDetails struct {
		To              common.Address
		RequestedAmount *big.Int
	}
	exactWitness struct {
		To         common.Address
		ValidAfter *big.Int
	}
	uptoWitness struct {
		To          common.Address
		Facilitator common.Address
		ValidAfter  *big.Int
	}
	permit2612 struct {
		Value    *big.Int
		Deadline *big.Int
		R, S     [32]byte
		V        uint8
	}
)

const (
	permissionsType = "TokenPermissions(address token,uint256 amount)"
	exactType       = "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,Witness witness)" + permissionsType + exactWitnessType
	uptoType        = "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,Witness witness)" + permissionsType + uptoWitnessType

	exactWitnessType = "Witness(address to,uint256 validAfter)"
	uptoWitnessType  = "Witness(address to,address facilitator,uint256 validAfter)"
)

func (p permissions) hash() common.Hash { return hash(permissionsType, p.Token, p.Amount) }

func (w exactWitness) hash() common.Hash { return hash(exactWitnessType, w.To, w.ValidAfter) }

func (w uptoWitness) hash() common.Hash {
	return hash(uptoWitnessType, w.To, w.Facilitator, w.ValidAfter)
}

func permit2Separator(chain int64, at common.Address) common.Hash {
	return hash("EIP712Domain(string name,uint256 chainId,address verifyingContract)", "Permit2", big.NewInt(chain), at)
}

// purchase is a payment by Permit2 before somebody signs it.
type purchase struct {
	permit  permitTransfer
	to      common.Address
	after   *big.Int
	spender common.Address
	upto    *common.Address // the facilitator that the witness names
}

// exact is a valid purchase of 10000 units, to be spoiled.
func (d *dev) exact(token string, nonce int64) purchase {
	return purchase{
		permit: permitTransfer{permissions{d.at[token], big.NewInt(10000)}, big.NewInt(nonce), new(big.Int).Add(d.now(), big.NewInt(60))},
		to:     d.shop, after: new(big.Int), spender: d.at["ExactProxy"],
	}
}

func (d *dev) upto(token string, nonce int64) purchase {
	p := d.exact(token, nonce)
	who := common.Address(d.facilitator.Address())
	p.spender, p.upto = d.at["UptoProxy"], &who
	return p
}

func (d *dev) signed(p purchase) []byte {
	d.t.Helper()
	typ, witness := exactType, exactWitness{p.to, p.after}.hash()
	if p.upto != nil {
		typ, witness = uptoType, uptoWitness{p.to, *p.upto, p.after}.hash()
	}
	return d.sign(d.payer, digest(permit2Separator(84532, d.at["Permit2"]),
		hash(typ, p.permit.Permitted.hash(), p.spender, p.permit.Nonce, p.permit.Deadline, witness)))
}

// settle is the call of the proxy for a purchase; amount counts for upto only.
func (d *dev) settle(p purchase, amount int64, owner common.Address, sig []byte) []byte {
	d.t.Helper()
	if p.upto != nil {
		return d.pack("UptoProxy", "settle", p.permit, big.NewInt(amount), owner, uptoWitness{p.to, *p.upto, p.after}, sig)
	}
	return d.pack("ExactProxy", "settle", p.permit, owner, exactWitness{p.to, p.after}, sig)
}

func (d *dev) payerAddress() common.Address { return common.Address(d.payer.Address()) }

// transfers counts the Transfer events of a token in a receipt.
func transfers(receipt *types.Receipt, token common.Address) (n int) {
	for _, l := range receipt.Logs {
		if l.Address == token && l.Topics[0] == crypto.Keccak256Hash([]byte("Transfer(address,address,uint256)")) {
			n++
		}
	}
	return n
}

// typed is a typed message of the reference's vectors.
type typed struct {
	Message struct {
		From, To, Owner, Spender              common.Address
		Value, ValidAfter, ValidBefore, Nonce string
		Deadline                              string
		Permitted                             struct {
			Token  common.Address
			Amount string
		}
		Witness struct {
			To, Facilitator common.Address
			ValidAfter      string
		}
	}
	Digest          common.Hash
	DomainSeparator common.Hash
	Signature       string
}

type x402Vectors struct {
	Permit2 struct {
		Permit2    common.Address
		Deployer   common.Address `json:"create2_deployer"`
		ExactProxy proxyVector    `json:"exact_proxy"`
		UptoProxy  proxyVector    `json:"upto_proxy"`
		TypeExact  common.Hash    `json:"full_typehash_exact"`
		TypeUpto   common.Hash    `json:"full_typehash_upto"`
	}
	Typed map[string][]typed
}

type proxyVector struct {
	Constant common.Address
	String   string      `json:"witness_type_string"`
	Hash     common.Hash `json:"witness_typehash"`
}

func readX402(t *testing.T) (v x402Vectors) {
	t.Helper()
	text, err := os.ReadFile("testdata/x402.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func number(t *testing.T, s string) *big.Int {
	t.Helper()
	n, ok := new(big.Int).SetString(s, 10)
	if !ok {
		t.Fatalf("%q is no number", s)
	}
	return n
}

func (v typed) permit(t *testing.T) permitTransfer {
	t.Helper()
	m := v.Message
	return permitTransfer{permissions{m.Permitted.Token, number(t, m.Permitted.Amount)}, number(t, m.Nonce), number(t, m.Deadline)}
}

func (v typed) sig() []byte { return common.FromHex(v.Signature) }

// What published clients signed, settles on the development chain at the addresses they signed for.
func TestSignaturesOfTheReferenceSettle(t *testing.T) {
	t.Parallel()
	d := newDev(t)
	v := readX402(t)
	if d.at["Permit2"] != v.Permit2.Permit2 || d.at["ExactProxy"] != v.Permit2.ExactProxy.Constant || d.at["UptoProxy"] != v.Permit2.UptoProxy.Constant ||
		d.at["Deployer"] != v.Permit2.Deployer {
		t.Errorf("the canonical addresses are %v", d.at)
	}
	if crypto.Keccak256Hash([]byte(exactType)) != v.Permit2.TypeExact || crypto.Keccak256Hash([]byte(uptoType)) != v.Permit2.TypeUpto {
		t.Error("the test's own types are not the reference's")
	}
	for name, want := range map[string]proxyVector{"ExactProxy": v.Permit2.ExactProxy, "UptoProxy": v.Permit2.UptoProxy} {
		if got := d.read(name, "WITNESS_TYPE_STRING"); got != want.String {
			t.Errorf("%s has the type string %q", name, got)
		}
		if got := d.read(name, "WITNESS_TYPEHASH").([32]byte); got != want.Hash {
			t.Errorf("%s has the typehash %x", name, got)
		}
		if got := d.read(name, "PERMIT2"); got != v.Permit2.Permit2 {
			t.Errorf("%s uses %v", name, got)
		}
	}
	exact, upto := v.Typed["exact_permit2_v2"][0], v.Typed["upto_permit2_v2"][0]
	sponsored, permit := v.Typed["exact_permit2_with_eip2612_gas_sponsoring"][0], v.Typed["exact_permit2_with_eip2612_gas_sponsoring"][1]
	direct := v.Typed["exact_eip3009_v2"][0]
	if got := d.read("Permit2", "DOMAIN_SEPARATOR").([32]byte); got != exact.DomainSeparator {
		t.Errorf("Permit2's domain is %x", got)
	}
	if got := d.read("USDC", "DOMAIN_SEPARATOR").([32]byte); got != direct.DomainSeparator {
		t.Errorf("USDC's domain is %x", got)
	}

	// EIP-3009, in one piece.
	m := direct.Message
	d.does(d.facilitator, "USDC", d.pack("USDC", "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)",
		m.From, m.To, number(t, m.Value), number(t, m.ValidAfter), number(t, m.ValidBefore), [32]byte(common.FromHex(m.Nonce)), direct.sig()))
	if got := d.balance("USDC", d.shop); got != 10000 {
		t.Errorf("the shop has %d after EIP-3009", got)
	}

	// EIP-2612 signs the nonce 7, so seven permits come before.
	far := new(big.Int).Add(d.now(), big.NewInt(1000))
	for i := range 7 {
		structHash := hash("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)",
			d.payerAddress(), d.shop, new(big.Int), big.NewInt(int64(i)), far)
		d.does(d.facilitator, "USDC", d.pack("USDC", "permit(address,address,uint256,uint256,bytes)",
			d.payerAddress(), d.shop, new(big.Int), far, d.sign(d.payer, digest(direct.DomainSeparator, structHash))))
	}
	sig := permit.sig()
	p2612 := permit2612{number(t, permit.Message.Value), number(t, permit.Message.Deadline), [32]byte(sig[:32]), [32]byte(sig[32:64]), sig[64]}
	w := exactWitness{sponsored.Message.Witness.To, number(t, sponsored.Message.Witness.ValidAfter)}
	receipt := d.does(d.facilitator, "ExactProxy", d.pack("ExactProxy", "settleWithPermit", p2612, sponsored.permit(t), d.payerAddress(), w, sponsored.sig()))
	if got := d.balance("USDC", d.shop); got != 20000 {
		t.Errorf("the shop has %d after a sponsored approval", got)
	}
	if last := receipt.Logs[len(receipt.Logs)-1]; last.Topics[0] != d.abis["ExactProxy"].Events["SettledWithPermit"].ID {
		t.Errorf("the last event is %v", last.Topics)
	}

	d.approvePermit2("USDC")
	w = exactWitness{exact.Message.Witness.To, number(t, exact.Message.Witness.ValidAfter)}
	receipt = d.does(d.facilitator, "ExactProxy", d.pack("ExactProxy", "settle", exact.permit(t), d.payerAddress(), w, exact.sig()))
	if got := d.balance("USDC", d.shop); got != 30000 {
		t.Errorf("the shop has %d after exact", got)
	}
	if last := receipt.Logs[len(receipt.Logs)-1]; last.Topics[0] != d.abis["ExactProxy"].Events["Settled"].ID || last.Address != d.at["ExactProxy"] {
		t.Errorf("the last event is %v", last.Topics)
	}
	u := uptoWitness{upto.Message.Witness.To, upto.Message.Witness.Facilitator, number(t, upto.Message.Witness.ValidAfter)}
	d.does(d.facilitator, "UptoProxy", d.pack("UptoProxy", "settle", upto.permit(t), big.NewInt(123), d.payerAddress(), u, upto.sig()))
	if got := d.balance("USDC", d.shop); got != 30123 {
		t.Errorf("the shop has %d after upto", got)
	}
}

// Every rule of the exact proxy and of Permit2 below it is attacked, each time with a payment that is good but for one
// thing.
func TestExactPaymentsThatAreRefused(t *testing.T) {
	t.Parallel()
	d := newDev(t)
	d.approvePermit2("USDC")
	used, unwanted := d.exact("USDC", 7), d.exact("USDC", 300)
	d.does(d.facilitator, "ExactProxy", d.settle(used, 0, d.payerAddress(), d.signed(used)))
	d.does(d.payer, "Permit2", d.pack("Permit2", "invalidateUnorderedNonces", big.NewInt(1), big.NewInt(1<<(300-256))))
	stranger := d.facilitator

	for name, c := range map[string]struct {
		before func(p *purchase) // the payer signs it like that
		after  func(p *purchase) // the thief changes it then
		sig    func(sig []byte) []byte
		owner  common.Address
		want   string
	}{
		"a nonce that was used":                 {before: func(p *purchase) { *p = used }, want: "InvalidNonce()"},
		"a used nonce with another amount":      {before: func(p *purchase) { p.permit.Nonce = used.permit.Nonce }, want: "InvalidNonce()"},
		"a nonce that was invalidated":          {before: func(p *purchase) { *p = unwanted }, want: "InvalidNonce()"},
		"another recipient":                     {after: func(p *purchase) { p.to = common.Address(stranger.Address()) }, want: "InvalidSigner()"},
		"another validAfter":                    {after: func(p *purchase) { p.after = big.NewInt(1) }, want: "InvalidSigner()"},
		"a larger amount":                       {after: func(p *purchase) { p.permit.Permitted.Amount = big.NewInt(10001) }, want: "InvalidSigner()"},
		"a smaller amount":                      {after: func(p *purchase) { p.permit.Permitted.Amount = big.NewInt(9999) }, want: "InvalidSigner()"},
		"another token":                         {after: func(p *purchase) { p.permit.Permitted.Token = d.at["USDT"] }, want: "InvalidSigner()"},
		"another nonce":                         {after: func(p *purchase) { p.permit.Nonce = big.NewInt(99) }, want: "InvalidSigner()"},
		"another deadline":                      {after: func(p *purchase) { p.permit.Deadline = new(big.Int).Add(p.permit.Deadline, big.NewInt(1)) }, want: "InvalidSigner()"},
		"signed for the upto proxy":             {before: func(p *purchase) { p.spender = d.at["UptoProxy"] }, want: "InvalidSigner()"},
		"signed for nobody's proxy":             {before: func(p *purchase) { p.spender = d.payerAddress() }, want: "InvalidSigner()"},
		"expired a second ago":                  {before: func(p *purchase) { p.permit.Deadline = new(big.Int).Sub(d.now(), big.NewInt(1)) }, want: "SignatureExpired(uint256)"},
		"valid a second later":                  {before: func(p *purchase) { p.after = new(big.Int).Add(d.now(), big.NewInt(1)) }, want: "PaymentTooEarly()"},
		"nothing":                               {before: func(p *purchase) { p.permit.Permitted.Amount = new(big.Int) }, want: "InvalidAmount()"},
		"to nobody":                             {before: func(p *purchase) { p.to = common.Address{} }, want: "InvalidDestination()"},
		"from somebody else":                    {owner: common.Address(stranger.Address()), want: "InvalidSigner()"},
		"more than there is":                    {before: func(p *purchase) { p.permit.Permitted.Amount = big.NewInt(1 << 62) }, want: "TRANSFER_FROM_FAILED"},
		"a token without allowance":             {before: func(p *purchase) { p.permit.Permitted.Token = d.at["USDT"] }, want: "TRANSFER_FROM_FAILED"},
		"a token without code":                  {before: func(p *purchase) { p.permit.Permitted.Token = d.shop }, want: "TRANSFER_FROM_FAILED"},
		"no signature":                          {sig: func([]byte) []byte { return nil }, want: "InvalidSignatureLength()"},
		"a signature of 66 bytes":               {sig: func(s []byte) []byte { return append(s, 0) }, want: "InvalidSignatureLength()"},
		"a signature that recovers nobody":      {sig: func(s []byte) []byte { s[64] = 29; return s }, want: "InvalidSignature()"},
		"a signature whose parity is flipped":   {sig: func(s []byte) []byte { s[64] ^= 7; return s }, want: "InvalidSigner()"},
		"a short signature with flipped parity": {sig: func(s []byte) []byte { s = compact(s); s[32] ^= 0x80; return s }, want: "InvalidSigner()"},
		"a short signature":                     {sig: compact, want: ""},
		"good":                                  {want: ""},
		"good until this very second":           {before: func(p *purchase) { p.permit.Deadline = d.now() }, want: ""},
		"good from this very second":            {before: func(p *purchase) { p.after = d.now() }, want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := d.with(t)
			p := d.exact("USDC", 1)
			if c.before != nil {
				c.before(&p)
			}
			sig := d.signed(p)
			if c.after != nil {
				c.after(&p)
			}
			if c.sig != nil {
				sig = c.sig(sig)
			}
			owner := d.payerAddress()
			if c.owner != (common.Address{}) {
				owner = c.owner
			}
			d.refuses(d.facilitator, "ExactProxy", d.settle(p, 0, owner, sig), c.want)
		})
	}

	p := d.exact("USDC", 2)
	d.refuses(d.facilitator, "ExactProxy", d.settle(p, 0, common.Address{}, d.signed(p)), "InvalidOwner()")
	// Whoever holds the signature cannot go around the proxy.
	direct := d.pack("Permit2", "permitWitnessTransferFrom(((address,uint256),uint256,uint256),(address,uint256),address,bytes32,string,bytes)",
		p.permit, transferDetails{d.shop, p.permit.Permitted.Amount}, d.payerAddress(), [32]byte(exactWitness{p.to, p.after}.hash()),
		"Witness witness)"+permissionsType+exactWitnessType, d.signed(p))
	d.refuses(d.facilitator, "Permit2", direct, "InvalidSigner()")
	// Another chain, another Permit2.
	for name, separator := range map[string]common.Hash{"of base": permit2Separator(8453, d.at["Permit2"]), "of another contract": permit2Separator(84532, d.shop)} {
		sig := d.sign(d.payer, digest(separator, hash(exactType, p.permit.Permitted.hash(), p.spender, p.permit.Nonce, p.permit.Deadline, exactWitness{p.to, p.after}.hash())))
		if _, got := d.ask(d.facilitator, d.at["ExactProxy"], d.settle(p, 0, d.payerAddress(), sig)); got != "InvalidSigner()" {
			t.Errorf("a domain %s is refused with %q", name, got)
		}
	}
}

// compact is EIP-2098's form of a signature.
func compact(sig []byte) []byte {
	out := bytes.Clone(sig[:64])
	out[32] |= (sig[64] - 27) << 7
	return out
}

// The nonces are bits: neighbours, and the same bit of another word, are others.
func TestPermit2NoncesHaveNoOrder(t *testing.T) {
	t.Parallel()
	d := newDev(t)
	d.approvePermit2("USDC")
	for i, nonce := range []int64{255, 0, 256, 1, 511, 1 << 40} {
		p := d.exact("USDC", nonce)
		d.does(d.facilitator, "ExactProxy", d.settle(p, 0, d.payerAddress(), d.signed(p)))
		if got := d.balance("USDC", d.shop); got != 10000*int64(i+1) {
			t.Errorf("after nonce %d the shop has %d", nonce, got)
		}
		d.refuses(d.facilitator, "ExactProxy", d.settle(p, 0, d.payerAddress(), d.signed(p)), "InvalidNonce()")
	}
	if got := d.read("Permit2", "nonceBitmap", d.payerAddress(), new(big.Int)).(*big.Int); got.Bit(0) != 1 || got.Bit(1) != 1 || got.Bit(255) != 1 || got.Bit(2) != 0 {
		t.Errorf("the first word is %x", got)
	}
}

func TestUptoPaymentsThatAreRefused(t *testing.T) {
	t.Parallel()
	d := newDev(t)
	d.approvePermit2("USDC")
	p := d.upto("USDC", 1)
	sig, payer := d.signed(p), d.payerAddress()
	d.refuses(d.payer, "UptoProxy", d.settle(p, 10, payer, sig), "UnauthorizedFacilitator()")
	d.refuses(d.facilitator, "UptoProxy", d.settle(p, 10001, payer, sig), "AmountExceedsPermitted()")
	d.refuses(d.facilitator, "UptoProxy", d.settle(p, 0, payer, sig), "InvalidAmount()")
	// A facilitator that writes itself into the witness is not what was signed.
	theft, thief := p, common.Address(devchain.Accounts()[3].Address())
	theft.upto = &thief
	d.refuses(devchain.Accounts()[3], "UptoProxy", d.settle(theft, 10, payer, sig), "InvalidSigner()")
	diverted := p
	diverted.to = thief
	d.refuses(d.facilitator, "UptoProxy", d.settle(diverted, 10, payer, sig), "InvalidSigner()")
	early := d.upto("USDC", 2)
	early.after = new(big.Int).Add(d.now(), big.NewInt(1))
	d.refuses(d.facilitator, "UptoProxy", d.settle(early, 10, payer, d.signed(early)), "PaymentTooEarly()")
	late := d.upto("USDC", 3)
	late.permit.Deadline = new(big.Int).Sub(d.now(), big.NewInt(1))
	d.refuses(d.facilitator, "UptoProxy", d.settle(late, 10, payer, d.signed(late)), "SignatureExpired(uint256)")

	// A part is taken, and the rest is gone with the signature.
	d.does(d.facilitator, "UptoProxy", d.settle(p, 4000, payer, sig))
	d.refuses(d.facilitator, "UptoProxy", d.settle(p, 6000, payer, sig), "InvalidNonce()")
	if got := d.balance("USDC", d.shop); got != 4000 {
		t.Errorf("the shop has %d, want 4000", got)
	}
	whole := d.upto("USDC", 4)
	d.does(d.facilitator, "UptoProxy", d.settle(whole, 10000, payer, d.signed(whole)))
	if got := d.balance("USDC", d.shop); got != 14000 {
		t.Errorf("the shop has %d, want 14000", got)
	}
	// The exact proxy does not take a signature for the other one.
	d.refuses(d.facilitator, "ExactProxy", d.pack("ExactProxy", "settle", whole.permit, payer, exactWitness{whole.to, whole.after}, d.signed(whole)), "InvalidNonce()")
}

// A permit for another amount is refused. One that fails is noted, and the allowance decides.
func TestSponsoredApproval(t *testing.T) {
	t.Parallel()
	d := newDev(t)
	payer := d.payerAddress()
	separator := common.Hash(d.read("USDC", "DOMAIN_SEPARATOR").([32]byte))
	sponsor := func(value int64) permit2612 {
		deadline := new(big.Int).Add(d.now(), big.NewInt(60))
		nonce := d.read("USDC", "nonces", payer).(*big.Int)
		sig := d.sign(d.payer, digest(separator, hash("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)",
			payer, d.at["Permit2"], big.NewInt(value), nonce, deadline)))
		return permit2612{big.NewInt(value), deadline, [32]byte(sig[:32]), [32]byte(sig[32:64]), sig[64]}
	}
	settle := func(p purchase, with permit2612) []byte {
		return d.pack("ExactProxy", "settleWithPermit", with, p.permit, payer, exactWitness{p.to, p.after}, d.signed(p))
	}
	p := d.exact("USDC", 1)
	d.refuses(d.facilitator, "ExactProxy", settle(p, sponsor(10001)), "Permit2612AmountMismatch()")
	bad := sponsor(10000)
	bad.V ^= 7
	d.refuses(d.facilitator, "ExactProxy", settle(p, bad), "TRANSFER_FROM_FAILED")
	good := sponsor(10000)
	d.does(d.facilitator, "ExactProxy", settle(p, good))

	// The permit is used now. With an allowance from elsewhere that does not matter.
	d.approvePermit2("USDC")
	p = d.exact("USDC", 2)
	receipt := d.does(d.facilitator, "ExactProxy", settle(p, good))
	if first := receipt.Logs[0]; first.Topics[0] != d.abis["ExactProxy"].Events["EIP2612PermitFailedWithReason"].ID ||
		!strings.Contains(string(first.Data), "EIP2612: invalid signature") {
		t.Errorf("the failed permit is noted as %v", first)
	}
	if got := d.balance("USDC", d.shop); got != 20000 {
		t.Errorf("the shop has %d", got)
	}
	// A token without permit at all.
	d.approvePermit2("USDT")
	p = d.exact("USDT", 3)
	receipt = d.does(d.facilitator, "ExactProxy", settle(p, good))
	if first := receipt.Logs[0]; first.Topics[0] != d.abis["ExactProxy"].Events["EIP2612PermitFailedWithData"].ID {
		t.Errorf("the failed permit is noted as %v", first)
	}
	// The upto proxy: the permit is for the whole of what was signed, whatever is charged.
	u := d.upto("USDC", 4)
	d.does(d.payer, "USDC", d.pack("USDC", "approve", d.at["Permit2"], new(big.Int)))
	d.does(d.facilitator, "UptoProxy", d.pack("UptoProxy", "settleWithPermit", sponsor(10000), u.permit, big.NewInt(1), payer,
		uptoWitness{u.to, *u.upto, u.after}, d.signed(u)))
	if got := d.balance("USDC", d.shop); got != 20001 {
		t.Errorf("the shop has %d", got)
	}
	if got := d.read("USDC", "allowance", payer, d.at["Permit2"]).(*big.Int).Int64(); got != 9999 {
		t.Errorf("an allowance of %d is left, want 9999", got)
	}
}

// USDT returns nothing and refuses to change an allowance; Permit2 moves it all the same.
func TestTetherHasHabits(t *testing.T) {
	t.Parallel()
	d := newDev(t)
	d.refuses(d.payer, "USDT", d.pack("USDT", "transfer", d.shop, big.NewInt(devchain.Dollars*1_000_000+1)), "reverted with 0x")
	for method, args := range map[string][]any{"approve": {d.at["Permit2"], big.NewInt(5)}, "transfer": {d.shop, big.NewInt(5)}} {
		if out, refusal := d.ask(d.payer, d.at["USDT"], d.pack("USDT", method, args...)); len(out) != 0 || refusal != "" {
			t.Errorf("%s returns %x %s", method, out, refusal)
		}
	}
	d.approvePermit2("USDT")
	d.refuses(d.payer, "USDT", d.pack("USDT", "approve", d.at["Permit2"], big.NewInt(5)), "reverted with 0x")
	p := d.exact("USDT", 1)
	receipt := d.does(d.facilitator, "ExactProxy", d.settle(p, 0, d.payerAddress(), d.signed(p)))
	if got := d.balance("USDT", d.shop); got != 10000 || transfers(receipt, d.at["USDT"]) != 1 {
		t.Errorf("the shop has %d", got)
	}
	d.does(d.payer, "USDT", d.pack("USDT", "approve", d.at["Permit2"], new(big.Int)))
	d.does(d.payer, "USDT", d.pack("USDT", "approve", d.at["Permit2"], big.NewInt(5)))
	for _, method := range []string{"transferWithAuthorization", "permit", "authorizationState", "DOMAIN_SEPARATOR", "nonces", "version"} {
		if _, has := d.abis["USDT"].Methods[method]; has {
			t.Errorf("it has %s", method)
		}
	}
	if name, symbol := d.read("USDT", "name"), d.read("USDT", "symbol"); name != "Test Tether" || symbol != "USDT" {
		t.Errorf("it is called %s, %s", name, symbol)
	}
}

// A token that calls back while it moves can neither settle a second payment inside the first nor the first again.
func TestReentrancy(t *testing.T) {
	t.Parallel()
	d := newDev(t)
	d.create("Hostile", contractstest.HostileDollar)
	d.does(d.payer, "Hostile", d.pack("Hostile", "mint", d.payerAddress(), big.NewInt(1_000_000)))
	d.approvePermit2("Hostile")
	d.approvePermit2("USDC")
	outer, inner := d.exact("Hostile", 1), d.exact("USDC", 2)
	for i, inside := range []*purchase{&inner, &outer} {
		outer.permit.Nonce = big.NewInt(int64(100 + i))
		d.does(d.payer, "Hostile", d.pack("Hostile", "setReentry", d.at["ExactProxy"], d.settle(*inside, 0, d.payerAddress(), d.signed(*inside))))
		before := d.balance("Hostile", d.shop)
		d.does(d.facilitator, "ExactProxy", d.settle(outer, 0, d.payerAddress(), d.signed(outer)))
		if d.read("Hostile", "reentered").(bool) {
			t.Errorf("payment %d was settled inside", i)
		}
		if got := d.balance("Hostile", d.shop) - before; got != 10000 {
			t.Errorf("around payment %d: %d moved", i, got)
		}
	}
	if got := d.balance("USDC", d.shop); got != 0 {
		t.Errorf("the inner payment moved %d", got)
	}
	// The lock is gone with the transaction.
	d.does(d.facilitator, "ExactProxy", d.settle(inner, 0, d.payerAddress(), d.signed(inner)))

	// Permit2 itself has no lock. The nonce is spent before the token is called.
	p := permitTransfer{permissions{d.at["Hostile"], big.NewInt(10)}, big.NewInt(9), new(big.Int).Add(d.now(), big.NewInt(60))}
	const single = "permitTransferFrom(((address,uint256),uint256,uint256),(address,uint256),address,bytes)"
	sig := d.sign(d.payer, digest(permit2Separator(84532, d.at["Permit2"]), hash(
		"PermitTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline)"+permissionsType, p.Permitted.hash(), d.at["Hostile"], p.Nonce, p.Deadline)))
	again := d.pack("Permit2", single, p, transferDetails{d.shop, big.NewInt(10)}, d.payerAddress(), sig)
	// The token is the spender: it is asked to move, and inside to call Permit2 twice. The inner call moves the money, whose
	// own call back is off by then.
	d.does(d.payer, "Hostile", d.pack("Hostile", "setReentry", d.at["Permit2"], again))
	before := d.balance("Hostile", d.shop)
	d.does(d.payer, "Hostile", d.pack("Hostile", "transfer", d.shop, big.NewInt(1)))
	if got := d.balance("Hostile", d.shop) - before; got != 11 || !d.read("Hostile", "reentered").(bool) {
		t.Errorf("%d moved", got)
	}
	d.does(d.payer, "Hostile", d.pack("Hostile", "setReentry", d.at["Permit2"], again))
	d.does(d.payer, "Hostile", d.pack("Hostile", "transfer", d.shop, big.NewInt(1)))
	if d.read("Hostile", "reentered").(bool) {
		t.Error("a used nonce was used again")
	}
}

// What the hostile token does is what its modes say, by EIP-3009 and by Permit2.
func TestHostileDollarDoesAsTold(t *testing.T) {
	t.Parallel()
	d := newDev(t)
	d.create("Hostile", contractstest.HostileDollar)
	d.does(d.payer, "Hostile", d.pack("Hostile", "mint", d.payerAddress(), big.NewInt(1_000_000)))
	d.approvePermit2("Hostile")
	stranger := common.HexToAddress("0x57a")
	nonce := int64(0)
	for name, c := range map[string]struct {
		mode     contractstest.Mode
		number   int64
		arrives  int64  // of 10000
		event    string // what the last Transfer says: "" for none
		events   int
		permit2  string // how Permit2 refuses
		refused  string // how EIP-3009 is refused
		simulate string // and in a call without a gas price
	}{
		"honest":     {contractstest.Honest, 0, 10000, "shop 10000", 1, "", "", ""},
		"fee":        {contractstest.Fee, 3, 9700, "shop 9700", 1, "", "", ""},
		"hidden fee": {contractstest.HiddenFee, 3, 9700, "shop 10000", 1, "", "", ""},
		"silent":     {contractstest.Silent, 0, 0, "", 0, "", "", ""},
		"false":      {contractstest.False, 0, 0, "", 0, "TRANSFER_FROM_FAILED", "", ""},
		"liar":       {contractstest.Liar, 0, 0, "shop 10000", 1, "", "", ""},
		"stray":      {contractstest.Stray, 0x57a, 0, "stranger 10000", 1, "", "", ""},
		"less":       {contractstest.Less, 0, 9999, "shop 9999", 1, "", "", ""},
		"twice":      {contractstest.Twice, 0, 10000, "shop 10000", 2, "", "", ""},
		"burn":       {contractstest.Burn, 0, 0, "", 0, "TRANSFER_FROM_FAILED", "failed", "reverted with "},
		"two-faced":  {contractstest.TwoFaced, 0, 0, "", 0, "", "failed", ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := d.with(t)
			d.does(d.payer, "Hostile", d.pack("Hostile", "set", uint8(c.mode), big.NewInt(c.number)))
			nonce++
			p := d.exact("Hostile", nonce)
			d.refuses(d.facilitator, "ExactProxy", d.settle(p, 0, d.payerAddress(), d.signed(p)), c.permit2)

			before := d.balance("Hostile", d.shop)
			data := d.authorization("Hostile", d.payer, d.payerAddress(), nonce, nil)
			if _, got := d.ask(d.facilitator, d.at["Hostile"], data); got != c.simulate {
				t.Errorf("a simulation says %q, want %q", got, c.simulate)
			}
			to := d.at["Hostile"]
			receipt := d.send(d.facilitator, &to, data)
			if failed := receipt.Status == types.ReceiptStatusFailed; failed != (c.refused != "") {
				t.Fatalf("failed is %v", failed)
			} else if failed && receipt.GasUsed < 2_900_000 {
				t.Errorf("it burned %d gas only", receipt.GasUsed)
			}
			if got := d.balance("Hostile", d.shop) - before; got != c.arrives {
				t.Errorf("%d arrived, want %d", got, c.arrives)
			}
			event := ""
			for _, l := range receipt.Logs {
				if l.Topics[0] != d.abis["Hostile"].Events["Transfer"].ID {
					continue
				}
				who := map[common.Address]string{d.shop: "shop", stranger: "stranger"}[common.BytesToAddress(l.Topics[2][:])]
				event = who + " " + new(big.Int).SetBytes(l.Data).String()
			}
			if event != c.event || transfers(receipt, d.at["Hostile"]) != c.events {
				t.Errorf("the event says %q in %d events, want %q in %d", event, transfers(receipt, d.at["Hostile"]), c.event, c.events)
			}
		})
	}
}

// authorization is the call of transferWithAuthorization for 10000 units from owner to the shop, in one piece; spoil
// changes the words of the call after they were signed: from, to, value, validAfter, validBefore, nonce.
func (d *dev) authorization(token string, signer *evm.PrivateKey, owner common.Address, nonce int64, spoil func(words []any)) []byte {
	d.t.Helper()
	words := []any{owner, d.shop, big.NewInt(10000), new(big.Int), new(big.Int).Add(d.now(), big.NewInt(60)), [32]byte(common.BigToHash(big.NewInt(nonce)))}
	sig := d.signAuthorization(token, signer, words)
	if spoil != nil {
		spoil(words)
	}
	return d.pack(token, "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)", append(words, sig)...)
}

func (d *dev) signAuthorization(token string, signer *evm.PrivateKey, words []any) []byte {
	d.t.Helper()
	separator := common.Hash(d.read(token, "DOMAIN_SEPARATOR").([32]byte))
	return d.sign(signer, digest(separator, hash(
		"TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)",
		words[0], words[1], words[2], words[3], words[4], common.Hash(words[5].([32]byte)))))
}

// The test dollar refuses what Circle's token refuses, with its words: clients and facilitators read them.
func TestDollarRefusesWithTheReasonsOfUSDC(t *testing.T) {
	t.Parallel()
	d := newDev(t)
	d.does(d.facilitator, "USDC", d.authorization("USDC", d.payer, d.payerAddress(), 7, nil))
	separator := common.Hash(d.read("USDC", "DOMAIN_SEPARATOR").([32]byte))
	cancel := func(key *evm.PrivateKey, nonce int64) []byte {
		n := common.BigToHash(big.NewInt(nonce))
		sig := d.sign(key, digest(separator, hash("CancelAuthorization(address authorizer,bytes32 nonce)", d.payerAddress(), n)))
		return d.pack("USDC", "cancelAuthorization(address,bytes32,bytes)", d.payerAddress(), n, sig)
	}
	d.refuses(d.payer, "USDC", cancel(d.facilitator, 8), "FiatTokenV2: invalid signature")
	d.does(d.facilitator, "USDC", cancel(d.payer, 8))
	d.refuses(d.facilitator, "USDC", cancel(d.payer, 8), "FiatTokenV2: authorization is used or canceled")

	later := func(seconds int64) *big.Int { return new(big.Int).Add(d.now(), big.NewInt(seconds)) }
	for name, c := range map[string]struct {
		words func(words []any) // before it is signed
		spoil func(words []any) // after
		sig   func(sig []byte) []byte
		want  string
	}{
		"good":                        {want: ""},
		"used":                        {words: func(w []any) { w[5] = [32]byte(common.BigToHash(big.NewInt(7))) }, want: "FiatTokenV2: authorization is used or canceled"},
		"canceled":                    {words: func(w []any) { w[5] = [32]byte(common.BigToHash(big.NewInt(8))) }, want: "FiatTokenV2: authorization is used or canceled"},
		"valid from this second":      {words: func(w []any) { w[3] = later(0) }, want: "FiatTokenV2: authorization is not yet valid"},
		"valid until this second":     {words: func(w []any) { w[4] = later(0) }, want: "FiatTokenV2: authorization is expired"},
		"valid since a second":        {words: func(w []any) { w[3] = later(-1) }, want: ""},
		"valid for a second":          {words: func(w []any) { w[4] = later(1) }, want: ""},
		"more than there is":          {words: func(w []any) { w[2] = big.NewInt(1 << 62) }, want: "ERC20: transfer amount exceeds balance"},
		"to nobody":                   {words: func(w []any) { w[1] = common.Address{} }, want: "ERC20: transfer to the zero address"},
		"another value":               {spoil: func(w []any) { w[2] = big.NewInt(10001) }, want: "FiatTokenV2: invalid signature"},
		"another recipient":           {spoil: func(w []any) { w[1] = d.payerAddress() }, want: "FiatTokenV2: invalid signature"},
		"another payer":               {spoil: func(w []any) { w[0] = d.shop }, want: "FiatTokenV2: invalid signature"},
		"another nonce":               {spoil: func(w []any) { w[5] = [32]byte{9} }, want: "FiatTokenV2: invalid signature"},
		"another end":                 {spoil: func(w []any) { w[4] = later(61) }, want: "FiatTokenV2: invalid signature"},
		"a signature of 64 bytes":     {sig: compact, want: "ECRecover: invalid signature length"},
		"a signature with a high s":   {sig: highS, want: "ECRecover: invalid signature 's' value"},
		"a signature with v 0":        {sig: func(s []byte) []byte { s[64] -= 27; return s }, want: "ECRecover: invalid signature 'v' value"},
		"a signature with zeros":      {sig: func([]byte) []byte { return append(make([]byte, 64), 27) }, want: "ECRecover: invalid signature"},
		"a signature of another form": {sig: func(s []byte) []byte { return append(s, s...) }, want: "ECRecover: invalid signature length"},
	} {
		t.Run(name, func(t *testing.T) {
			d := d.with(t)
			words := []any{d.payerAddress(), d.shop, big.NewInt(10000), new(big.Int), later(60), [32]byte{1}}
			if c.words != nil {
				c.words(words)
			}
			sig := d.signAuthorization("USDC", d.payer, words)
			if c.spoil != nil {
				c.spoil(words)
			}
			if c.sig != nil {
				sig = c.sig(sig)
			}
			const inOne = "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)"
			d.refuses(d.facilitator, "USDC", d.pack("USDC", inOne, append(slices.Clone(words), sig)...), c.want)
			if len(sig) == 65 { // in three words
				const inThree = "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)"
				args := append(slices.Clone(words), sig[64], [32]byte(sig[:32]), [32]byte(sig[32:64]))
				d.refuses(d.facilitator, "USDC", d.pack("USDC", inThree, args...), c.want)
			}
		})
	}

	p := []any{d.payerAddress(), d.shop, big.NewInt(5), later(-1), make([]byte, 65)}
	d.refuses(d.payer, "USDC", d.pack("USDC", "permit(address,address,uint256,uint256,bytes)", p...), "FiatTokenV2: permit is expired")
	p[3], p[4] = later(0), d.sign(d.payer, digest(separator, common.Hash{}))
	d.refuses(d.payer, "USDC", d.pack("USDC", "permit(address,address,uint256,uint256,bytes)", p...), "EIP2612: invalid signature")
	d.refuses(d.payer, "USDC", d.pack("USDC", "transferFrom", d.shop, d.payerAddress(), big.NewInt(1)), "ERC20: transfer amount exceeds allowance")
	d.refuses(d.payer, "USDC", d.pack("USDC", "receiveWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)",
		d.payerAddress(), d.shop, big.NewInt(1), new(big.Int), later(60), [32]byte{}, make([]byte, 65)), "FiatTokenV2: caller must be the payee")
}

// highS is the other signature over the same message by the same key.
func highS(sig []byte) []byte {
	out := bytes.Clone(sig)
	n := crypto.S256().Params().N
	new(big.Int).Sub(n, new(big.Int).SetBytes(sig[32:64])).FillBytes(out[32:64])
	out[64] ^= 7
	return out
}

// Permit2 takes both values of s, as it does on public chains: what is single there is the nonce.
func TestPermit2TakesAHighS(t *testing.T) {
	t.Parallel()
	d := newDev(t)
	d.approvePermit2("USDC")
	p := d.exact("USDC", 1)
	d.does(d.facilitator, "ExactProxy", d.settle(p, 0, d.payerAddress(), highS(d.signed(p))))
	d.refuses(d.facilitator, "ExactProxy", d.settle(p, 0, d.payerAddress(), d.signed(p)), "InvalidNonce()")
}

// Wallets that are contracts pay by EIP-3009 and by Permit2: deployed ones, ones that exist by promise only, and accounts
// that delegated to a contract.
func TestContractWalletsPay(t *testing.T) {
	t.Parallel()
	d := newDev(t)
	d.create("Factory", contractstest.WalletFactory)
	d.abis["Wallet"] = parseABI(t, contractstest.SmartWallet)
	wallet := d.read("Factory", "getAddress", d.payerAddress(), big.NewInt(5)).(common.Address)
	d.at["Wallet"] = wallet
	d.does(d.payer, "USDC", d.pack("USDC", "mint", wallet, big.NewInt(100_000)))
	makeIt := d.pack("Factory", "createAccount", d.payerAddress(), big.NewInt(5))

	// Before it exists nobody can tell whose signature it is; in one call with its creation it pays.
	transfer := d.authorization("USDC", d.payer, wallet, 1, nil)
	d.refuses(d.facilitator, "USDC", transfer, "FiatTokenV2: invalid signature")
	type call3 struct {
		Target       common.Address
		AllowFailure bool
		CallData     []byte
	}
	d.does(d.facilitator, "Multicall3", d.pack("Multicall3", "aggregate3", []call3{{d.at["Factory"], false, makeIt}, {d.at["USDC"], false, transfer}}))
	if got := d.balance("USDC", d.shop); got != 10000 {
		t.Errorf("the shop has %d", got)
	}
	d.does(d.facilitator, "Factory", makeIt) // again, which changes nothing
	d.refuses(d.facilitator, "USDC", transfer, "FiatTokenV2: authorization is used or canceled")
	d.refuses(d.facilitator, "USDC", d.authorization("USDC", d.facilitator, wallet, 2, nil), "FiatTokenV2: invalid signature")

	// By Permit2, after the wallet approved it.
	approve := d.pack("USDC", "approve", d.at["Permit2"], big.NewInt(10000))
	d.refuses(d.facilitator, "Wallet", d.pack("Wallet", "execute", d.at["USDC"], new(big.Int), approve), "Unauthorized(address)")
	d.does(d.payer, "Wallet", d.pack("Wallet", "execute", d.at["USDC"], new(big.Int), approve))
	p := d.exact("USDC", 1)
	wrong := bytes.Clone(d.signed(p))
	wrong[0] ^= 1
	d.refuses(d.facilitator, "ExactProxy", d.settle(p, 0, wallet, wrong), "InvalidContractSignature()")
	d.refuses(d.facilitator, "ExactProxy", d.settle(p, 0, wallet, nil), "InvalidContractSignature()")
	d.refuses(d.facilitator, "ExactProxy", d.settle(p, 0, d.at["Multicall3"], d.signed(p)), "InvalidContractSignature()")
	d.does(d.facilitator, "ExactProxy", d.settle(p, 0, wallet, d.signed(p)))
	if got := d.balance("USDC", wallet); got != 80_000 {
		t.Errorf("the wallet has %d left", got)
	}

	// EIP-7702: the payer's account delegates to the wallet's code, and is asked by ERC-1271 from then on.
	delegate := d.create("Delegate", contractstest.SmartWallet, common.Address{})
	key, err := crypto.ToECDSA(d.payer.Bytes())
	d.must(err)
	nonce, err := d.client.PendingNonceAt(t.Context(), d.payerAddress())
	d.must(err)
	auth, err := types.SignSetCode(key, types.SetCodeAuthorization{ChainID: *uint256.NewInt(84532), Address: delegate, Nonce: nonce})
	d.must(err)
	sender, err := d.client.PendingNonceAt(t.Context(), common.Address(d.facilitator.Address()))
	d.must(err)
	receipt := d.submit(d.facilitator, &types.SetCodeTx{
		ChainID: uint256.NewInt(84532), Nonce: sender, Gas: 200_000, GasFeeCap: uint256.NewInt(1e8), GasTipCap: uint256.NewInt(1e8),
		To: d.shop, AuthList: []types.SetCodeAuthorization{auth},
	})
	if code, err := d.client.CodeAt(t.Context(), d.payerAddress(), nil); err != nil || len(code) != 23 || receipt.Status != 1 {
		t.Fatalf("the payer did not delegate: %x, %v", code, err)
	}
	before := d.balance("USDC", d.shop)
	d.does(d.facilitator, "USDC", d.authorization("USDC", d.payer, d.payerAddress(), 3, nil))
	d.refuses(d.facilitator, "USDC", d.authorization("USDC", d.facilitator, d.payerAddress(), 4, nil), "FiatTokenV2: invalid signature")
	d.approvePermit2("USDC")
	p = d.exact("USDC", 2)
	d.refuses(d.facilitator, "ExactProxy", d.settle(p, 0, d.payerAddress(), compact(d.signed(p))), "InvalidContractSignature()")
	d.does(d.facilitator, "ExactProxy", d.settle(p, 0, d.payerAddress(), d.signed(p)))
	if got := d.balance("USDC", d.shop) - before; got != 20000 {
		t.Errorf("%d moved", got)
	}
}

// Without a witness, and in batches: nothing of x402 uses these, wallets do.
func TestPermit2WithoutWitnessAndInBatches(t *testing.T) {
	t.Parallel()
	d := newDev(t)
	d.approvePermit2("USDC")
	d.approvePermit2("USDT")
	spender, deadline := common.Address(d.facilitator.Address()), new(big.Int).Add(d.now(), big.NewInt(60))
	separator := permit2Separator(84532, d.at["Permit2"])
	one := permitTransfer{permissions{d.at["USDC"], big.NewInt(10)}, big.NewInt(1), deadline}
	sig := d.sign(d.payer, digest(separator, hash("PermitTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline)"+permissionsType,
		one.Permitted.hash(), spender, one.Nonce, deadline)))
	const single = "permitTransferFrom(((address,uint256),uint256,uint256),(address,uint256),address,bytes)"
	take := func(amount int64) []byte {
		return d.pack("Permit2", single, one, transferDetails{d.shop, big.NewInt(amount)}, d.payerAddress(), sig)
	}
	d.refuses(d.facilitator, "Permit2", take(11), "InvalidAmount(uint256)")
	d.refuses(d.payer, "Permit2", take(10), "InvalidSigner()")
	d.does(d.facilitator, "Permit2", take(9))
	d.refuses(d.facilitator, "Permit2", take(1), "InvalidNonce()")

	many := batchTransfer{[]permissions{{d.at["USDC"], big.NewInt(20)}, {d.at["USDT"], big.NewInt(30)}}, big.NewInt(2), deadline}
	list := hash(many.Permitted[0].hash(), many.Permitted[1].hash())
	const batchType = "(TokenPermissions[] permitted,address spender,uint256 nonce,uint256 deadline"
	plain := d.sign(d.payer, digest(separator, hash("PermitBatchTransferFrom"+batchType+")"+permissionsType, list, spender, many.Nonce, deadline)))
	const batch = "permitTransferFrom(((address,uint256)[],uint256,uint256),(address,uint256)[],address,bytes)"
	takeMany := func(sig []byte, details ...transferDetails) []byte {
		return d.pack("Permit2", batch, many, details, d.payerAddress(), sig)
	}
	part := func(amount int64) transferDetails { return transferDetails{d.shop, big.NewInt(amount)} }
	d.refuses(d.facilitator, "Permit2", takeMany(plain, part(1)), "LengthMismatch()")
	d.refuses(d.facilitator, "Permit2", takeMany(plain, part(20), part(31)), "InvalidAmount(uint256)")
	d.refuses(d.payer, "Permit2", takeMany(plain, part(20), part(30)), "InvalidSigner()")
	d.does(d.facilitator, "Permit2", takeMany(plain, part(0), part(30)))
	d.refuses(d.facilitator, "Permit2", takeMany(plain, part(20), part(0)), "InvalidNonce()")

	many.Nonce = big.NewInt(3)
	witness := exactWitness{d.shop, new(big.Int)}.hash()
	witnessed := d.sign(d.payer, digest(separator, hash("PermitBatchWitnessTransferFrom"+batchType+",Witness witness)"+permissionsType+exactWitnessType,
		list, spender, many.Nonce, deadline, witness)))
	const batchWitness = "permitWitnessTransferFrom(((address,uint256)[],uint256,uint256),(address,uint256)[],address,bytes32,string,bytes)"
	text := "Witness witness)" + permissionsType + exactWitnessType
	details := []transferDetails{part(20), part(0)}
	d.refuses(d.facilitator, "Permit2", d.pack("Permit2", batchWitness, many, details, d.payerAddress(), [32]byte{1}, text, witnessed), "InvalidSigner()")
	d.refuses(d.facilitator, "Permit2", takeMany(witnessed, details...), "InvalidSigner()")
	d.does(d.facilitator, "Permit2", d.pack("Permit2", batchWitness, many, details, d.payerAddress(), witness, text, witnessed))
	if usdc, usdt := d.balance("USDC", d.shop), d.balance("USDT", d.shop); usdc != 29 || usdt != 30 {
		t.Errorf("the shop has %d and %d, want 29 and 30", usdc, usdt)
	}
}

func TestMulticall3(t *testing.T) {
	t.Parallel()
	d := newDev(t)
	type call struct {
		Target   common.Address
		CallData []byte
	}
	type call3 struct {
		Target       common.Address
		AllowFailure bool
		CallData     []byte
	}
	type call3Value struct {
		Target       common.Address
		AllowFailure bool
		Value        *big.Int
		CallData     []byte
	}
	type result = struct {
		Success    bool   `json:"success"`
		ReturnData []byte `json:"returnData"`
	}
	good := d.pack("USDC", "decimals")
	bad := d.pack("USDC", "transfer", common.Address{}, big.NewInt(1))
	usdc := d.at["USDC"]
	results := func(method string, args ...any) []result {
		t.Helper()
		out, refusal := d.ask(d.payer, d.at["Multicall3"], d.pack("Multicall3", method, args...))
		if refusal != "" {
			t.Fatalf("%s: %s", method, refusal)
		}
		values, err := d.abis["Multicall3"].Unpack(method, out)
		d.must(err)
		return values[len(values)-1].([]result)
	}
	six := common.BigToHash(big.NewInt(6)).Bytes()
	for _, method := range []string{"tryAggregate", "tryBlockAndAggregate"} {
		got := results(method, false, []call{{usdc, bad}, {usdc, good}})
		if len(got) != 2 || got[0].Success || !bytes.Contains(got[0].ReturnData, []byte("zero address")) || !got[1].Success || !bytes.Equal(got[1].ReturnData, six) {
			t.Errorf("%s: %v", method, got)
		}
		d.refuses(d.payer, "Multicall3", d.pack("Multicall3", method, true, []call{{usdc, good}, {usdc, bad}}), "Multicall3: call failed")
	}
	if got := results("aggregate3", []call3{{usdc, true, bad}, {usdc, false, good}}); got[0].Success || !got[1].Success {
		t.Errorf("aggregate3: %v", got)
	}
	d.refuses(d.payer, "Multicall3", d.pack("Multicall3", "aggregate3", []call3{{usdc, true, good}, {usdc, false, bad}}), "Multicall3: call failed")
	d.refuses(d.payer, "Multicall3", d.pack("Multicall3", "aggregate", []call{{usdc, bad}}), "Multicall3: call failed")
	d.refuses(d.payer, "Multicall3", d.pack("Multicall3", "blockAndAggregate", []call{{usdc, bad}}), "Multicall3: call failed")
	out, _ := d.ask(d.payer, d.at["Multicall3"], d.pack("Multicall3", "aggregate", []call{{usdc, good}, {d.shop, nil}}))
	values, err := d.abis["Multicall3"].Unpack("aggregate", out)
	d.must(err)
	if got := values[1].([][]byte); values[0].(*big.Int).Uint64() != d.node.Height() || len(got) != 2 || !bytes.Equal(got[0], six) || len(got[1]) != 0 {
		t.Errorf("aggregate: %v", values)
	}

	// Value: what is sent along goes to the calls, all of it.
	multicall := d.at["Multicall3"]
	pay := d.pack("Multicall3", "aggregate3Value", []call3Value{{d.shop, false, big.NewInt(3), nil}, {usdc, true, big.NewInt(4), good}, {d.shop, false, big.NewInt(5), nil}})
	for value, want := range map[int64]uint64{12: types.ReceiptStatusSuccessful, 13: types.ReceiptStatusFailed, 11: types.ReceiptStatusFailed} {
		if receipt := d.sendTx(d.payer, &types.DynamicFeeTx{To: &multicall, Data: pay, Value: big.NewInt(value)}); receipt.Status != want {
			t.Errorf("with %d wei the status is %d", value, receipt.Status)
		}
	}
	if got := d.read("Multicall3", "getEthBalance", d.shop).(*big.Int).Int64(); got != 8 {
		t.Errorf("the shop has %d wei", got)
	}

	head, err := d.client.HeaderByNumber(t.Context(), nil)
	d.must(err)
	for method, want := range map[string]*big.Int{
		"getBlockNumber": head.Number, "getCurrentBlockTimestamp": new(big.Int).SetUint64(head.Time), "getChainId": big.NewInt(84532),
		"getCurrentBlockGasLimit": new(big.Int).SetUint64(head.GasLimit), "getCurrentBlockDifficulty": head.MixDigest.Big(),
	} {
		if got := d.read("Multicall3", method).(*big.Int); got.Cmp(want) != 0 {
			t.Errorf("%s: %v, want %v", method, got, want)
		}
	}
	if got := d.read("Multicall3", "getLastBlockHash").([32]byte); got != head.ParentHash {
		t.Errorf("the last block is %x", got)
	}
	if got := d.read("Multicall3", "getBlockHash", new(big.Int).Sub(head.Number, big.NewInt(1))).([32]byte); got != head.ParentHash {
		t.Errorf("the block before is %x", got)
	}
	if got := d.read("Multicall3", "getCurrentBlockCoinbase"); got != head.Coinbase {
		t.Errorf("the coinbase is %v", got)
	}
}

// One transaction settles many payments of both kinds, and one that is bad fails alone.
func TestManyPaymentsSettleInOneTransaction(t *testing.T) {
	t.Parallel()
	d := newDev(t)
	d.approvePermit2("USDC")
	type call3 struct {
		Target       common.Address
		AllowFailure bool
		CallData     []byte
	}
	var calls []call3
	for nonce := range int64(4) {
		p := d.exact("USDC", nonce)
		calls = append(calls,
			call3{d.at["ExactProxy"], true, d.settle(p, 0, d.payerAddress(), d.signed(p))},
			call3{d.at["USDC"], true, d.authorization("USDC", d.payer, d.payerAddress(), nonce, nil)})
	}
	calls = append(calls, calls[2], calls[3]) // again
	receipt := d.does(d.facilitator, "Multicall3", d.pack("Multicall3", "aggregate3", calls))
	if got := d.balance("USDC", d.shop); got != 80_000 || transfers(receipt, d.at["USDC"]) != 8 {
		t.Errorf("the shop has %d after %d transfers", got, transfers(receipt, d.at["USDC"]))
	}
	d.refuses(d.facilitator, "Multicall3", d.pack("Multicall3", "aggregate3", []call3{{d.at["ExactProxy"], false, calls[0].CallData}}), "Multicall3: call failed")
}

func TestDeployerCreatesAtTheAddressOfTheSalt(t *testing.T) {
	t.Parallel()
	d := newDev(t)
	salt := crypto.Keccak256Hash([]byte("salt"))
	data := append(salt[:], contracts.TestTether.Bytecode...)
	want := crypto.CreateAddress2(d.at["Deployer"], salt, crypto.Keccak256(contracts.TestTether.Bytecode))
	if out, refusal := d.ask(d.payer, d.at["Deployer"], data); !bytes.Equal(out, want[:]) || refusal != "" {
		t.Errorf("it answers %x %s, want %x", out, refusal, want)
	}
	d.does(d.payer, "Deployer", data)
	code, err := d.client.CodeAt(t.Context(), want, nil)
	if err != nil || !contracts.TestTether.Matches(code) {
		t.Errorf("%d bytes of code, %v", len(code), err)
	}
	for name, data := range map[string][]byte{
		"the same again": data, "no salt": salt[:31], "nothing": nil, "a constructor that reverts": append(salt[:], 0x60, 0, 0x60, 0, 0xfd),
	} {
		if _, refusal := d.ask(d.payer, d.at["Deployer"], data); refusal == "" {
			t.Errorf("%s is done", name)
		}
	}
}

// The interfaces have the shapes that the reference gives, so that clients' calls find them.
func TestInterfacesOfTheReference(t *testing.T) {
	t.Parallel()
	const permit, exact, upto, permit2612 = "((address,uint256),uint256,uint256)", "(address,uint256)", "(address,address,uint256)", "(uint256,uint256,bytes32,bytes32,uint8)"
	for _, c := range []struct {
		artifact contracts.Artifact
		methods  []string
		errors   []string
	}{
		{contracts.ExactProxy, []string{
			"settle(" + permit + ",address," + exact + ",bytes)", "settleWithPermit(" + permit2612 + "," + permit + ",address," + exact + ",bytes)", "PERMIT2()",
		}, []string{"InvalidAmount()", "InvalidDestination()", "InvalidOwner()", "InvalidPermit2Address()", "PaymentTooEarly()", "Permit2612AmountMismatch()", "ReentrancyGuardReentrantCall()"}},
		{contracts.UptoProxy, []string{
			"settle(" + permit + ",uint256,address," + upto + ",bytes)", "settleWithPermit(" + permit2612 + "," + permit + ",uint256,address," + upto + ",bytes)", "PERMIT2()",
		}, []string{"UnauthorizedFacilitator()", "AmountExceedsPermitted()"}},
		{contracts.Permit2, []string{
			"nonceBitmap(address,uint256)", "invalidateUnorderedNonces(uint256,uint256)", "DOMAIN_SEPARATOR()",
		}, []string{"SignatureExpired(uint256)", "InvalidNonce()", "InvalidAmount(uint256)", "InvalidSigner()", "InvalidContractSignature()"}},
	} {
		parsed := parseABI(t, c.artifact)
		var methods, errs []string
		for _, m := range parsed.Methods {
			methods = append(methods, m.Sig)
		}
		for _, e := range parsed.Errors {
			errs = append(errs, e.Sig)
		}
		for _, want := range c.methods {
			if !slices.Contains(methods, want) {
				t.Errorf("%s has no %s", c.artifact.Name, want)
			}
		}
		for _, want := range c.errors {
			if !slices.Contains(errs, want) {
				t.Errorf("%s has no error %s", c.artifact.Name, want)
			}
		}
	}
}
