package exact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Chain is what is read from a network; [github.com/farthing402/farthing/evm/chain.Client] is one. A contract's refusal
// is an error with the methods RevertData() []byte and RevertReason() string; every other error means that the chain did
// not answer.
type Chain interface {
	ChainID() uint64
	// Code returns an account's code at the newest block, empty for none.
	Code(ctx context.Context, account evm.Address) ([]byte, error)
	// Read calls a contract at the newest block without a transaction.
	Read(ctx context.Context, from, to evm.Address, data []byte) ([]byte, error)
}

// revert is a contract's refusal.
type revert interface {
	error
	RevertData() []byte
	RevertReason() string
}

func reverted(err error) (revert, bool) {
	var r revert
	ok := errors.As(err, &r)
	return r, ok
}

// said returns a refusal's own words, or else the node's.
func said(r revert) string {
	text := revertText(r.RevertData())
	if reason := r.RevertReason(); reason != "" && (len(r.RevertData()) < 4 || strings.HasPrefix(text, "error 0x")) {
		return clip(reason)
	}
	return text
}

// What the methods call. The tokens' functions with a signature exist twice: for the three parts of a key's, and for any.
var (
	selTransferParts  = evm.Selector("transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)")
	selTransferBytes  = evm.Selector("transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)")
	selTransferFrom   = evm.Selector("transferFrom(address,address,uint256)")
	selState          = evm.Selector("authorizationState(address,bytes32)")
	selName           = evm.Selector("name()")
	selVersion        = evm.Selector("version()")
	selDecimals       = evm.Selector("decimals()")
	selSeparator      = evm.Selector("DOMAIN_SEPARATOR()")
	selDomain         = evm.Selector("eip712Domain()")
	selNonces         = evm.Selector("nonces(address)")
	selBalance        = evm.Selector("balanceOf(address)")
	selAllowance      = evm.Selector("allowance(address,address)")
	selPermit2        = evm.Selector("PERMIT2()")
	selBitmap         = evm.Selector("nonceBitmap(address,uint256)")
	selValidSignature = evm.Selector("isValidSignature(bytes32,bytes)")
	selTryAggregate   = evm.Selector("tryAggregate(bool,(address,bytes)[])")

	selSettle           = evm.Selector("settle(((address,uint256),uint256,uint256),address,(address,uint256),bytes)")
	selSettlePermit     = evm.Selector("settleWithPermit((uint256,uint256,bytes32,bytes32,uint8),((address,uint256),uint256,uint256),address,(address,uint256),bytes)")
	selUptoSettle       = evm.Selector("settle(((address,uint256),uint256,uint256),uint256,address,(address,address,uint256),bytes)")
	selUptoSettlePermit = evm.Selector("settleWithPermit((uint256,uint256,bytes32,bytes32,uint8),((address,uint256),uint256,uint256),uint256,address,(address,address,uint256),bytes)")
)

// validSignature is what ERC-1271 answers for a good one.
var validSignature = [4]byte{0x16, 0x26, 0xba, 0x7e}

func addressArg(a evm.Address) evm.Arg { return evm.WordArg(a.Word()) }
func amountArg(a money.Amount) evm.Arg { return evm.WordArg(a.Word()) }
func numberArg(n uint64) evm.Arg       { return evm.WordArg(evm.WordUint64(n)) }

// call is one call of several.
type call struct {
	to   evm.Address
	data []byte
}

func callOf(to evm.Address, selector [4]byte, args ...evm.Arg) call {
	return call{to, evm.EncodeCall(selector, args...)}
}

// answer is what a call gave; a refusal has the contract's data.
type answer struct {
	ok     bool
	data   evm.ABI
	reason string // of a refusal, if the node says one
}

func (a answer) amount() (money.Amount, bool) {
	w, ok := a.data.Word(0)
	if !a.ok || !ok {
		return money.Amount{}, false
	}
	return number(w), true
}

// text reads a string, also from tokens that answer with 32 bytes in its place.
func (a answer) text() (string, bool) {
	if !a.ok {
		return "", false
	}
	if b, ok := a.data.Bytes(0); ok {
		return string(b), true
	}
	if len(a.data) == 32 {
		return string(bytes.TrimRight(a.data, "\x00")), true
	}
	return "", false
}

// ask makes one call. A refusal is an answer.
func ask(ctx context.Context, chain Chain, from evm.Address, c call) (answer, error) {
	data, err := chain.Read(ctx, from, c.to, c.data)
	if r, ok := reverted(err); ok {
		return answer{data: r.RevertData(), reason: said(r)}, nil
	}
	if err != nil {
		return answer{}, fmt.Errorf("call %s on chain %d: %w", c.to, chain.ChainID(), err)
	}
	return answer{ok: true, data: data}, nil
}

// together makes calls one after another in one transaction that is not sent, each on what the ones before left.
func together(ctx context.Context, chain Chain, calls []call) ([]answer, error) {
	items := make([]evm.Arg, len(calls))
	for i, c := range calls {
		items[i] = evm.TupleArg(addressArg(c.to), evm.BytesArg(c.data))
	}
	reply, err := ask(ctx, chain, evm.Address{}, callOf(Multicall3, selTryAggregate, numberArg(0), evm.ListArg(items...)))
	if err != nil {
		return nil, err
	}
	if !reply.ok { // one of them used up all the gas there is
		answers := make([]answer, len(calls))
		for i := range answers {
			answers[i].reason = reply.reason
		}
		return answers, nil
	}
	list, n, ok := reply.data.List(0)
	if !ok || n != len(calls) {
		return nil, fmt.Errorf("call %s on chain %d: it does not answer as Multicall3", Multicall3, chain.ChainID())
	}
	answers := make([]answer, n)
	for i := range answers {
		item, ok := list.Tail(i)
		done, okDone := item.Bool(0)
		data, okData := item.Bytes(1)
		if !ok || !okDone || !okData {
			return nil, fmt.Errorf("call %s on chain %d: answer %d is cut off", Multicall3, chain.ChainID(), i)
		}
		answers[i] = answer{ok: done, data: data}
		if !done {
			answers[i].reason = revertText(data)
		}
	}
	return answers, nil
}

var (
	selError = evm.Selector("Error(string)")
	selPanic = evm.Selector("Panic(uint256)")
)

// revertText returns a contract's own words, or its error's selector.
func revertText(data []byte) string {
	if len(data) < 4 {
		return "no reason given"
	}
	switch selector := [4]byte(data); selector {
	case selError:
		if text, ok := evm.ABI(data[4:]).Bytes(0); ok {
			return clip(string(text))
		}
	case selPanic:
		return "panic"
	default:
		if name, ok := errorNames[selector]; ok {
			return name
		}
	}
	return fmt.Sprintf("error 0x%x", data[:4])
}

// errorNames are the errors of the contracts that this package calls.
var errorNames = func() map[[4]byte]string {
	m := map[[4]byte]string{}
	for _, signature := range []string{
		// x402's proxies and Permit2
		"InvalidAmount()", "InvalidDestination()", "InvalidOwner()", "InvalidPermit2Address()", "PaymentTooEarly()",
		"Permit2612AmountMismatch()", "ReentrancyGuardReentrantCall()", "AmountExceedsPermitted()", "UnauthorizedFacilitator()",
		"InvalidSigner()", "InvalidSignature()", "InvalidSignatureLength()", "InvalidContractSignature()", "InvalidNonce()",
		"SignatureExpired(uint256)", "InvalidAmount(uint256)",
		// tokens
		"ERC20InsufficientBalance(address,uint256,uint256)", "ERC20InsufficientAllowance(address,uint256,uint256)",
		"InsufficientBalance(address,uint256,uint256)", "InsufficientAllowance(address,uint256,uint256)",
		"AuthorizationNotYetValid(uint256)", "AuthorizationExpired(uint256)", "AuthorizationUsedOrCanceled(address,bytes32)",
	} {
		name, _, _ := bytes.Cut([]byte(signature), []byte("("))
		m[evm.Selector(signature)] = string(name)
	}
	return m
}()

// Used reports whether the chain has consumed the authorization's nonce: carried it out, or had it cancelled. It tells
// nothing of an amount; a receipt does. The error of a legacy authorization is [ErrNoNonce]; others mean that the chain
// did not answer, or that the contract is not the one that was meant.
func Used(ctx context.Context, chain Chain, a Authorization) (bool, error) {
	switch a.Method {
	case EIP3009:
		reply, err := ask(ctx, chain, evm.Address{}, callOf(a.Asset, selState, addressArg(a.From), evm.WordArg(a.Nonce)))
		if err != nil {
			return false, err
		}
		used, ok := reply.data.Bool(0)
		if !reply.ok || !ok {
			return false, fmt.Errorf("nonce of %s in token %s: the token does not say", a.From, a.Asset)
		}
		return used, nil
	case Permit2:
		var word evm.Hash // the nonce shifted right by eight bits
		copy(word[1:], a.Nonce[:31])
		reply, err := ask(ctx, chain, evm.Address{}, callOf(Permit2Address, selBitmap, addressArg(a.From), evm.WordArg(word)))
		if err != nil {
			return false, err
		}
		bitmap, ok := reply.data.Word(0)
		if !reply.ok || !ok {
			return false, fmt.Errorf("nonce of %s in Permit2: chain %d has no Permit2", a.From, chain.ChainID())
		}
		bit := a.Nonce[31]
		return bitmap[31-bit/8]>>(bit%8)&1 == 1, nil
	}
	return false, ErrNoNonce
}

// ErrNoNonce says that no contract keeps the nonce.
var ErrNoNonce = errors.New("no contract keeps the nonce of this authorization")
