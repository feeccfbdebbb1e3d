package exact

import (
	"context"
	"fmt"
	"slices"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// Gas that a settlement is allowed before its simulation says what it needs: the published facilitators give 300,000 to
// one through Permit2; a contract account's signature check comes on top.
const (
	transferGas = 150_000
	permit2Gas  = 300_000
	contractGas = 400_000
)

// Move is the call that settles an authorization.
type Move struct {
	Before []Step // in order; see [Verifier.Needed]
	To     evm.Address
	Data   []byte
	GasMax uint64

	// Sender is the account that has to send it; zero: anybody may. Shared says that it may be one call of several that
	// Multicall3 makes.
	Sender evm.Address
	Shared bool

	// What has to happen; see [Match].
	Token, From, Payee evm.Address
	Amount             money.Amount
	Method             Method
	Nonce              evm.Hash
}

// Step is what has to be on the chain before a [Move].
type Step struct {
	To      evm.Address // a contract account's factory
	Data    []byte
	Raw     []byte // instead: a transaction that the payer signed, to be broadcast as it is
	Failure string // code of the refusal when the step fails

	// The step is needless once Account has code, or, with Raw, has allowed Permit2 to move Amount of Token.
	Account, Token evm.Address
	Amount         money.Amount
}

// Move returns what settles an authorization with an amount: exactly what was signed, or for upto at most that and more
// than nothing, which needs no call. It does not verify. Errors are [*x402.Error].
func (v *Verifier) Move(a Authorization, amount money.Amount) (Move, error) {
	m := Move{
		GasMax: transferGas, Shared: true, To: a.Asset,
		Token: a.Asset, From: a.From, Payee: a.To, Amount: amount, Method: a.Method, Nonce: a.Nonce,
	}
	switch {
	case a.Scheme == UptoScheme && a.Amount.Less(amount):
		return Move{}, x402.Errorf("invalid_upto_evm_payload_settlement_exceeds_amount", "settle %s of an upto %s", amount, a.Amount)
	case a.Scheme != UptoScheme && amount != a.Amount:
		return Move{}, x402.Errorf(a.code().amount, "settle %s of a payment of %s", amount, a.Amount)
	case a.Method == Permit2 && amount.IsZero():
		return Move{}, x402.Errorf("amount_invalid", "settle nothing through Permit2")
	}
	wrapped, isWrapped := unwrap(a.Signature)
	signature := a.Signature
	if isWrapped {
		signature = wrapped.signature
		if slices.Contains(v.Factories, wrapped.factory) {
			m.Before = append(m.Before, Step{To: wrapped.factory, Data: wrapped.data, Account: a.From, Failure: "smart_wallet_deployment_failed"})
		}
	}
	signature, byKey := a.onChain(signature)
	if !byKey {
		m.GasMax += contractGas
	}
	switch a.Method {
	case EIP3009:
		m.Data = a.transferCall(signature)
	case Legacy:
		m.Sender, m.Shared = a.Spender, false
		m.Data = evm.EncodeCall(selTransferFrom, addressArg(a.From), addressArg(a.To), amountArg(amount))
	case Permit2:
		m.To, m.GasMax = a.Spender, m.GasMax-transferGas+permit2Gas
		if a.Scheme == UptoScheme {
			m.Sender, m.Shared = a.Facilitator, false
		}
		m.Data = a.settleCall(amount, signature)
		if a.Approval != nil && v.Approvals {
			m.Before = append(m.Before, Step{
				Raw: a.Approval.Raw, Account: a.From, Token: a.Asset, Amount: a.Amount, Failure: "erc20_approval_broadcast_failed",
			})
		}
	default:
		return Move{}, x402.Errorf("unsupported_payload_type", "settle a payment by %q", string(a.Method))
	}
	return m, nil
}

// Needed reports whether the chain still lacks what a step does.
func (v *Verifier) Needed(ctx context.Context, s Step) (bool, error) {
	if s.Raw == nil {
		code, err := v.Chain.Code(ctx, s.Account)
		if err != nil {
			return false, fmt.Errorf("code of %s: %w", s.Account, err)
		}
		return len(code) == 0, nil
	}
	reply, err := ask(ctx, v.Chain, evm.Address{}, callOf(s.Token, selAllowance, addressArg(s.Account), addressArg(Permit2Address)))
	if err != nil {
		return false, err
	}
	allowed, ok := reply.amount()
	return !ok || allowed.Less(s.Amount), nil
}

// onChain returns a signature as contracts take it, and whether the payer's key made it. Contracts want a key's last byte
// to be 27 or 28; a contract account's own signature of 65 bytes stays as it is, since its last byte may mean anything.
func (a Authorization) onChain(signature []byte) (b []byte, byKey bool) {
	sig, ok := plain(signature)
	if !ok {
		return signature, false
	}
	if !a.byKey(sig) {
		return signature, false
	}
	return sig[:], true
}

func (a Authorization) transferCall(signature []byte) []byte {
	args := []evm.Arg{
		addressArg(a.From), addressArg(a.To), amountArg(a.Amount), numberArg(a.ValidAfter), numberArg(a.ValidBefore), evm.WordArg(a.Nonce),
	}
	if len(signature) == 65 {
		args = append(args, numberArg(uint64(signature[64])), evm.WordArg([32]byte(signature[:32])), evm.WordArg([32]byte(signature[32:64])))
		return evm.EncodeCall(selTransferParts, args...)
	}
	return evm.EncodeCall(selTransferBytes, append(args, evm.BytesArg(signature))...)
}

// settleCall is a call of the proxy that the permit names as its spender.
func (a Authorization) settleCall(amount money.Amount, signature []byte) []byte {
	var args []evm.Arg
	plainCall, withPermit := selSettle, selSettlePermit
	if a.Scheme == UptoScheme {
		plainCall, withPermit = selUptoSettle, selUptoSettlePermit
	}
	selector := plainCall
	if p := a.Permit; p != nil && len(p.Signature) == 65 {
		selector = withPermit
		sig, _ := plain(p.Signature)
		args = append(args, evm.TupleArg(amountArg(p.Amount), amountArg(p.Deadline),
			evm.WordArg([32]byte(sig[:32])), evm.WordArg([32]byte(sig[32:64])), numberArg(uint64(sig[64]))))
	}
	args = append(args, evm.TupleArg(evm.TupleArg(addressArg(a.Asset), amountArg(a.Amount)), evm.WordArg(a.Nonce), numberArg(a.ValidBefore)))
	if a.Scheme == UptoScheme {
		args = append(args, amountArg(amount), addressArg(a.From),
			evm.TupleArg(addressArg(a.To), addressArg(a.Facilitator), numberArg(a.ValidAfter)))
	} else {
		args = append(args, addressArg(a.From), evm.TupleArg(addressArg(a.To), numberArg(a.ValidAfter)))
	}
	return evm.EncodeCall(selector, append(args, evm.BytesArg(signature))...)
}

var (
	transferTopic = typeHash("Transfer(address,address,uint256)")
	usedTopic     = typeHash("AuthorizationUsed(address,bytes32)")
)

// Proven reports whether the logs of a transaction, or of one call of it, show the transfer. Of a transaction that
// settles several, ask [Match].
func (m Move) Proven(logs []evm.Log) bool { return Match([]Move{m}, logs)[0] }

// transfer is what the log of a transfer says.
type transfer struct {
	token, from, to evm.Address
	amount          money.Amount
}

type nonceOf struct {
	token, from evm.Address
	nonce       evm.Hash
}

// Match says for each of the moves in one transaction whether the transaction's logs prove it. One log proves one move.
// Where a token logs the nonces of authorizations, a move of EIP-3009 needs its own, with the transfer behind it and before
// the next nonce: beside a payment, its payer may use up other nonces for nothing. Where equal moves have fewer logs
// than they are, and nothing tells which of them happened, none is proven: ask [Used].
func Match(moves []Move, logs []evm.Log) []bool {
	transfers, used, newest := map[transfer]int{}, map[nonceOf][]transfer{}, map[evm.Address]nonceOf{}
	for _, l := range logs {
		if len(l.Topics) != 3 {
			continue
		}
		from, ok := evm.ABI(l.Topics[1][:]).Address(0)
		if !ok {
			continue
		}
		switch l.Topics[0] {
		case transferTopic:
			to, ok := evm.ABI(l.Topics[2][:]).Address(0)
			if amount, err := money.AmountFromBytes(l.Data); ok && err == nil && len(l.Data) == 32 {
				t := transfer{l.Address, from, to, amount}
				transfers[t]++
				if n, ok := newest[l.Address]; ok {
					used[n] = append(used[n], t)
				}
			}
		case usedTopic:
			newest[l.Address] = nonceOf{l.Address, from, l.Topics[2]}
		}
	}
	possible := make([]bool, len(moves))
	claims := map[transfer]int{}
	for i, m := range moves {
		key := transfer{m.Token, m.From, m.Payee, m.Amount}
		_, says := newest[m.Token]
		possible[i] = m.Method != EIP3009 || !says || slices.Contains(used[nonceOf{m.Token, m.From, m.Nonce}], key)
		if possible[i] {
			claims[key]++
		}
	}
	for i, m := range moves {
		key := transfer{m.Token, m.From, m.Payee, m.Amount}
		possible[i] = possible[i] && claims[key] <= transfers[key]
	}
	return possible
}
