package sim

import (
	"errors"
	"math/big"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/exact"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
)

// Deploy gives tokens their methods: balances, transfers, allowances, and those by signature that the token has. With the
// first come Multicall3, Permit2 and x402's proxies.
func (c *Chain) Deploy(tokens ...network.Token) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range tokens {
		c.tokens[t.Address] = t
	}
}

// Call puts a call of a contract into the pool, as its sender's transaction.
func (c *Chain) Call(from, to evm.Address, data []byte) evm.Hash {
	return c.submit(from, op{Kind: opCall, Account: to, Data: data})
}

// Transfer sends tokens from one wallet to another.
func (c *Chain) Transfer(from, token, to evm.Address, amount money.Amount) evm.Hash {
	return c.Call(from, token, TransferCall(to, amount))
}

// TransferCall is the data of a token's call that sends the caller's tokens.
func TransferCall(to evm.Address, amount money.Amount) []byte {
	return evm.EncodeCall(selTransfer, evm.WordArg(to.Word()), evm.WordArg(amount.Word()))
}

// ApproveCall is the data of a token's call that lets somebody move the caller's tokens.
func ApproveCall(spender evm.Address, amount money.Amount) []byte {
	return evm.EncodeCall(selApprove, evm.WordArg(spender.Word()), evm.WordArg(amount.Word()))
}

// move is an authorization that was carried out.
type move struct {
	tx     evm.Hash
	to     evm.Address
	amount money.Amount
}

// Carried returns the transaction of the present chain that carried an authorization out, and what it moved to whom.
func (c *Chain) Carried(a exact.Authorization) (tx evm.Hash, to evm.Address, amount money.Amount, ok bool) {
	m, ok := c.at(evm.Hash{}).used[a.ID()]
	return m.tx, m.to, m.amount, ok
}

type allowance struct{ token, owner, spender evm.Address }

// Refusal is what a contract answers that refuses a call.
type Refusal struct {
	reason string
	data   []byte
}

func (r *Refusal) Error() string { return "execution reverted: " + r.reason }

// RevertReason returns the contract's words.
func (r *Refusal) RevertReason() string { return r.reason }

// RevertData returns them as the contract encodes them.
func (r *Refusal) RevertData() []byte { return r.data }

// says is a refusal in words, as tokens have it.
func says(words string) error {
	return &Refusal{words, evm.EncodeCall(evm.Selector("Error(string)"), evm.BytesArg([]byte(words)))}
}

// fails is a refusal by an error without members, as Permit2 and the proxies have it.
func fails(name string) error {
	s := evm.Selector(name + "()")
	return &Refusal{name, s[:]}
}

var (
	selTransfer      = evm.Selector("transfer(address,uint256)")
	selApprove       = evm.Selector("approve(address,uint256)")
	selTransferFrom  = evm.Selector("transferFrom(address,address,uint256)")
	selBalance       = evm.Selector("balanceOf(address)")
	selAllowance     = evm.Selector("allowance(address,address)")
	selName          = evm.Selector("name()")
	selVersion       = evm.Selector("version()")
	selDecimals      = evm.Selector("decimals()")
	selSeparator     = evm.Selector("DOMAIN_SEPARATOR()")
	selNonces        = evm.Selector("nonces(address)")
	selState         = evm.Selector("authorizationState(address,bytes32)")
	selTransferParts = evm.Selector("transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)")
	selTransferBytes = evm.Selector("transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)")
	selPermit2       = evm.Selector("PERMIT2()")
	selBitmap        = evm.Selector("nonceBitmap(address,uint256)")
	selSettle        = evm.Selector("settle(((address,uint256),uint256,uint256),address,(address,uint256),bytes)")
	selUptoSettle    = evm.Selector("settle(((address,uint256),uint256,uint256),uint256,address,(address,address,uint256),bytes)")
	selAggregate     = evm.Selector("aggregate3((address,bool,bytes)[])")
	selTryAggregate  = evm.Selector("tryAggregate(bool,(address,bytes)[])")

	topicTransfer = evm.Keccak256([]byte("Transfer(address,address,uint256)"))
	topicUsed     = evm.Keccak256([]byte("AuthorizationUsed(address,bytes32)"))
)

// there reports whether an account has code.
func (c *Chain) there(account evm.Address) bool {
	switch account {
	case exact.Multicall3, exact.Permit2Address, exact.ExactProxy, exact.UptoProxy:
		return len(c.tokens) > 0
	}
	_, token := c.tokens[account]
	return token
}

// invoke runs a call of a contract. One that is refused may leave traces in the state, which the caller throws away.
func (x *execution) invoke(caller, to evm.Address, data []byte) ([]byte, error) {
	if !x.there(to) {
		return nil, nil // a call of an account without code succeeds
	}
	if len(data) < 4 {
		return nil, &Refusal{}
	}
	selector, args := [4]byte(data), evm.ABI(data[4:])
	switch to {
	case exact.Multicall3:
		return x.aggregate(selector, args)
	case exact.Permit2Address:
		owner, ok := args.Address(0)
		word, ok2 := args.Word(1)
		if selector != selBitmap || !ok || !ok2 {
			return nil, &Refusal{}
		}
		return x.bitmap(owner, word), nil
	case exact.ExactProxy, exact.UptoProxy:
		if selector == selPermit2 {
			return wordOf(exact.Permit2Address.Word()), nil
		}
		return nil, x.settle(caller, to, selector, args)
	}
	return x.token(caller, x.tokens[to], selector, args)
}

// aggregate makes several calls, each of which may fail by itself.
func (x *execution) aggregate(selector [4]byte, args evm.ABI) ([]byte, error) {
	at, members := 0, 2 // where the bytes of a call stand
	switch selector {
	case selTryAggregate:
		at, members = 1, 1
	case selAggregate:
	default:
		return nil, &Refusal{}
	}
	list, n, ok := args.List(at)
	if !ok {
		return nil, &Refusal{}
	}
	var results []evm.Arg
	for i := range n {
		item, ok := list.Tail(i)
		target, ok2 := item.Address(0)
		data, ok3 := item.Bytes(members)
		if !ok || !ok2 || !ok3 {
			return nil, &Refusal{}
		}
		mayFail := true
		if selector == selAggregate {
			mayFail, _ = item.Bool(1)
		}
		before, logs := x.state.clone(), len(x.logs)
		out, err := x.invoke(exact.Multicall3, target, data)
		done := evm.WordUint64(1)
		if err != nil {
			if !mayFail {
				return nil, says("Multicall3: call failed")
			}
			x.state, x.logs, done = before, x.logs[:logs], [32]byte{}
			var r *Refusal
			if errors.As(err, &r) {
				out = r.data
			}
		}
		results = append(results, evm.TupleArg(evm.WordArg(done), evm.BytesArg(out)))
	}
	return evm.EncodeArgs(evm.ListArg(results...)), nil
}

func wordOf(w [32]byte) []byte { return w[:] }

func boolOf(b bool) []byte {
	if b {
		return wordOf(evm.WordUint64(1))
	}
	return make([]byte, 32)
}

func textOf(s string) []byte { return evm.EncodeArgs(evm.BytesArg([]byte(s))) }

// reader takes words one after another and remembers whether one was missing.
type reader struct {
	args evm.ABI
	at   int
	bad  bool
}

func (r *reader) word() [32]byte {
	w, ok := r.args.Word(r.at)
	r.at++
	r.bad = r.bad || !ok
	return w
}

func (r *reader) address() evm.Address { w := r.word(); return evm.Address(w[12:]) }

func (r *reader) amount() money.Amount {
	w := r.word()
	a, _ := money.AmountFromBytes(w[:]) // 32 bytes always fit
	return a
}

// time reads a number of seconds; one that no clock reaches is the latest there is.
func (r *reader) time() uint64 {
	w := r.word()
	if n := new(big.Int).SetBytes(w[:]); n.IsUint64() {
		return n.Uint64()
	}
	return 1<<64 - 1
}

func (r *reader) bytes() []byte {
	b, ok := r.args.Bytes(r.at)
	r.at++
	r.bad = r.bad || !ok
	return b
}

// token runs a call of a token.
func (x *execution) token(caller evm.Address, t network.Token, selector [4]byte, args evm.ABI) ([]byte, error) {
	r := &reader{args: args}
	var out []byte
	var err error
	switch selector {
	case selName:
		out = textOf(t.Name)
	case selVersion:
		out = textOf(t.Version)
	case selDecimals:
		out = wordOf(evm.WordUint64(uint64(t.Decimals)))
	case selSeparator:
		s := t.Domain(x.deployment.ChainID).Separator()
		out = s[:]
	case selBalance:
		out = wordOf(x.wallets[ownerAsset{r.address(), t.Address}].Word())
	case selAllowance:
		out = wordOf(x.allowed[allowance{t.Address, r.address(), r.address()}].Word())
	case selNonces: // nobody has given a permit: the model takes none
		if !t.EIP2612 {
			return nil, &Refusal{}
		}
		out = make([]byte, 32)
	case selTransfer:
		to, amount := r.address(), r.amount()
		if !r.bad {
			out, err = boolOf(true), x.transfer(t.Address, caller, to, amount)
		}
	case selApprove:
		spender, amount := r.address(), r.amount()
		if !r.bad {
			x.allowed[allowance{t.Address, caller, spender}] = amount
			out = boolOf(true)
		}
	case selTransferFrom:
		from, to, amount := r.address(), r.address(), r.amount()
		if !r.bad {
			out, err = boolOf(true), x.transferFrom(caller, t.Address, from, to, amount)
		}
	case selState:
		if !t.EIP3009 {
			return nil, &Refusal{}
		}
		_, used := x.used[exact.Authorization{Method: exact.EIP3009, ChainID: x.deployment.ChainID, Asset: t.Address, From: r.address(), Nonce: r.word()}.ID()]
		out = boolOf(used)
	case selTransferParts, selTransferBytes:
		if !t.EIP3009 {
			return nil, &Refusal{}
		}
		err = x.transferBySignature(t, r, selector == selTransferParts)
	default:
		return nil, &Refusal{}
	}
	if r.bad {
		return nil, &Refusal{}
	}
	return out, err
}

func (x *execution) log(contract evm.Address, data []byte, topics ...evm.Hash) {
	x.logs = append(x.logs, evm.Log{Address: contract, Topics: topics, Data: data})
}

func (x *execution) transfer(token, from, to evm.Address, amount money.Amount) error {
	rest, ok := x.wallets[ownerAsset{from, token}].Sub(amount)
	if !ok {
		return says("ERC20: transfer amount exceeds balance")
	}
	x.wallets[ownerAsset{from, token}] = rest
	x.wallets[ownerAsset{to, token}], _ = x.wallets[ownerAsset{to, token}].Add(amount) // no more than was minted
	x.log(token, wordOf(amount.Word()), topicTransfer, evm.Hash(from.Word()), evm.Hash(to.Word()))
	return nil
}

func (x *execution) transferFrom(spender, token, from, to evm.Address, amount money.Amount) error {
	who := allowance{token, from, spender}
	rest, ok := x.allowed[who].Sub(amount)
	if !ok {
		return says("ERC20: transfer amount exceeds allowance")
	}
	if x.allowed[who] != money.MaxAmount() {
		x.allowed[who] = rest
	}
	return x.transfer(token, from, to, amount)
}

// transferBySignature is EIP-3009's transferWithAuthorization, which anybody may bring.
func (x *execution) transferBySignature(t network.Token, r *reader, parts bool) error {
	a := exact.Authorization{
		Scheme: exact.Scheme, Method: exact.EIP3009, ChainID: x.deployment.ChainID, Asset: t.Address, Name: t.Name, Version: t.Version,
		From: r.address(), To: r.address(), Amount: r.amount(), ValidAfter: r.time(), ValidBefore: r.time(), Nonce: r.word(),
	}
	if parts {
		v, rr, s := r.word(), r.word(), r.word()
		a.Signature = append(append(rr[:], s[:]...), v[31])
	} else {
		a.Signature = r.bytes()
	}
	_, used := x.used[a.ID()]
	switch {
	case r.bad:
		return &Refusal{}
	case x.now <= a.ValidAfter:
		return says("FiatTokenV2: authorization is not yet valid")
	case x.now >= a.ValidBefore:
		return says("FiatTokenV2: authorization is expired")
	case used:
		return says("FiatTokenV2: authorization is used or canceled")
	case a.Signed() != nil:
		return says("FiatTokenV2: invalid signature")
	}
	x.used[a.ID()] = move{x.tx, a.To, a.Amount}
	x.log(t.Address, nil, topicUsed, evm.Hash(a.From.Word()), a.Nonce)
	return x.transfer(t.Address, a.From, a.To, a.Amount)
}

// settle is what x402's proxies do: Permit2's permitWitnessTransferFrom, to the recipient that the payer signed.
func (x *execution) settle(caller, proxy evm.Address, selector [4]byte, args evm.ABI) error {
	r := &reader{args: args}
	a := exact.Authorization{
		Scheme: exact.Scheme, Method: exact.Permit2, ChainID: x.deployment.ChainID, Spender: proxy,
		Asset: r.address(), Amount: r.amount(), Nonce: r.word(), ValidBefore: r.time(),
	}
	amount := a.Amount
	switch {
	case proxy == exact.UptoProxy && selector == selUptoSettle:
		a.Scheme = exact.UptoScheme
		amount, a.From, a.To, a.Facilitator = r.amount(), r.address(), r.address(), r.address()
	case proxy == exact.ExactProxy && selector == selSettle:
		a.From, a.To = r.address(), r.address()
	default:
		return &Refusal{}
	}
	a.ValidAfter, a.Signature = r.time(), r.bytes()
	_, used := x.used[a.ID()]
	switch {
	case r.bad:
		return &Refusal{}
	case a.Scheme == exact.UptoScheme && caller != a.Facilitator:
		return fails("UnauthorizedFacilitator")
	case a.Amount.Less(amount):
		return fails("AmountExceedsPermitted")
	case amount.IsZero():
		return fails("InvalidAmount")
	case a.To.IsZero():
		return fails("InvalidDestination")
	case x.now < a.ValidAfter:
		return fails("PaymentTooEarly")
	case x.now > a.ValidBefore:
		return fails("SignatureExpired")
	case used:
		return fails("InvalidNonce")
	case a.Signed() != nil:
		return fails("InvalidSigner")
	}
	x.used[a.ID()] = move{x.tx, a.To, amount}
	return x.transferFrom(exact.Permit2Address, a.Asset, a.From, a.To, amount)
}

// bitmap is a word of Permit2's nonces of an owner: 256 of them that differ in their last byte.
func (x *execution) bitmap(owner evm.Address, word [32]byte) []byte {
	a := exact.Authorization{Method: exact.Permit2, ChainID: x.deployment.ChainID, From: owner}
	copy(a.Nonce[:], word[1:])
	out := make([]byte, 32)
	for bit := range 256 {
		a.Nonce[31] = byte(bit)
		if _, used := x.used[a.ID()]; used {
			out[31-bit/8] |= 1 << (bit % 8)
		}
	}
	return out
}
