package exact

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/x402"
)

const (
	// codeFor is for how long a contract that was there counts as there.
	codeFor = 15 * time.Minute
	// keyFor is for how long an account that had no code counts as one with a key only. It may become a contract at any
	// time; a payment that this misjudges is still simulated, and cannot move more than was signed.
	keyFor = 5 * time.Second
	// rememberMax bounds what is remembered of either kind: anybody can name accounts.
	rememberMax = 4096
)

// Verifier checks payments on one chain, as a facilitator does before it serves and settles them. Its fields are set
// before use and not changed; it is safe for concurrent use.
type Verifier struct {
	// Chain is asked what only it can tell. Without one such payments are refused and the rest passes unsimulated, which
	// is enough for a payee that has somebody else look.
	Chain Chain

	// Factories are those by which contract accounts may be deployed that sign before they exist (ERC-6492). Whoever
	// settles calls them, so none is trusted unless it is named.
	Factories []evm.Address

	// Signers are the accounts that settle: the facilitators of upto, the spenders of exact-legacy. Nil: those that the
	// terms name.
	Signers []evm.Address

	// Approvals says that approvals which payers signed are broadcast here; otherwise they are passed over.
	Approvals bool

	// Simulate makes Verify try the transfer on the chain's newest state.
	Simulate bool

	mu    sync.Mutex
	codes map[evm.Address]time.Time // guarded by mu: contracts, and until when they count
	keys  map[evm.Address]time.Time // guarded by mu: accounts without code
}

// Verify reads a payment and checks everything about it, in the order of the published facilitators. A refusal is an
// [*x402.Error] with their code; any other error means that the chain did not answer and says nothing about the payment.
// The authorization is returned with an error too, as far as it could be read.
func (v *Verifier) Verify(ctx context.Context, p x402.Payment, r x402.Requirements, now time.Time) (Authorization, error) {
	a, err := Read(p, r)
	if err != nil {
		return a, err
	}
	return a, v.Judge(ctx, a, r, now, v.Simulate)
}

// Judge is [Verifier.Verify] for an authorization that has been read, with or without simulation. Facilitators repeat it
// without before they settle.
func (v *Verifier) Judge(ctx context.Context, a Authorization, r x402.Requirements, now time.Time, simulate bool) error {
	if v.Chain == nil {
		return a.check(r, now, v.Signers, a.Signed)
	}
	if !v.Approvals {
		a.Approval, a.approvalErr = nil, nil
	}
	if id := v.Chain.ChainID(); a.ChainID != id && a.fits(r) == nil {
		return x402.Errorf("invalid_network", "payment is for chain %d, served is chain %d", a.ChainID, id)
	}
	var payer account
	signature := func() (err error) {
		if a.Method == Permit2 {
			// The published facilitators report a token that is none before a signature that is bad.
			if err := v.tokenIsThere(ctx, a, now); err != nil {
				return err
			}
		}
		payer, err = v.signed(ctx, a, now)
		return err
	}
	if err := a.check(r, now, v.Signers, signature); err != nil {
		return err
	}
	if a.Method != Permit2 {
		if err := v.tokenIsThere(ctx, a, now); err != nil {
			return err
		}
	}
	if a.Method == Legacy {
		return v.allowed(ctx, a, simulate)
	}
	if !simulate && payer.deploy == nil { // nothing else would judge the signature of an account that is not there
		return nil
	}
	return v.simulate(ctx, a, payer, now)
}

func (v *Verifier) tokenIsThere(ctx context.Context, a Authorization, now time.Time) error {
	there, err := v.isContract(ctx, a.Asset, now)
	if err == nil && !there {
		err = x402.Errorf("asset_not_deployed_contract", "token %s has no code on chain %d", a.Asset, a.ChainID)
	}
	return err
}

// isContract asks for an account's code. That there is some is remembered.
func (v *Verifier) isContract(ctx context.Context, account evm.Address, now time.Time) (bool, error) {
	if v.remembered(&v.codes, account, now) {
		return true, nil
	}
	code, err := v.code(ctx, account)
	if err == nil && len(code) > 0 {
		v.remember(&v.codes, account, now.Add(codeFor))
	}
	return len(code) > 0, err
}

func (v *Verifier) code(ctx context.Context, account evm.Address) ([]byte, error) {
	code, err := v.Chain.Code(ctx, account)
	if err != nil {
		return nil, fmt.Errorf("code of %s on chain %d: %w", account, v.Chain.ChainID(), err)
	}
	return code, nil
}

func (v *Verifier) remembered(m *map[evm.Address]time.Time, account evm.Address, now time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	until, ok := (*m)[account]
	return ok && now.Before(until)
}

func (v *Verifier) remember(m *map[evm.Address]time.Time, account evm.Address, until time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if *m == nil || len(*m) >= rememberMax {
		*m = make(map[evm.Address]time.Time)
	}
	(*m)[account] = until
}

// account is what was found out about a payer.
type account struct {
	deploy *wrapping // not nil: the account is not there yet, and this is how to make it
}

// signed checks the signature with the payer's own code, if it has any; with its key otherwise.
func (v *Verifier) signed(ctx context.Context, a Authorization, now time.Time) (account, error) {
	wrapped, isWrapped := unwrap(a.Signature)
	byKey := a.Signed()
	if !isWrapped && byKey == nil && v.remembered(&v.keys, a.From, now) {
		return account{}, nil
	}
	code, err := v.code(ctx, a.From)
	if err != nil {
		return account{}, err
	}
	switch {
	case len(code) == 0 && isWrapped && a.Method == EIP3009:
		if !slices.Contains(v.Factories, wrapped.factory) {
			return account{}, x402.Errorf("eip6492_factory_not_allowed", "payer %s would be deployed by factory %s", a.From, wrapped.factory)
		}
		return account{deploy: &wrapped}, nil
	case len(code) == 0:
		if byKey == nil {
			v.remember(&v.keys, a.From, now.Add(keyFor))
		}
		return account{}, byKey
	}
	signature := a.Signature
	if isWrapped {
		signature = wrapped.signature
	}
	onChain, _ := a.onChain(signature)
	digest := a.Digest()
	reply, err := ask(ctx, v.Chain, evm.Address{}, callOf(a.From, selValidSignature, evm.WordArg(digest), evm.BytesArg(onChain)))
	if err != nil {
		return account{}, err
	}
	if w, ok := reply.data.Word(0); !reply.ok || !ok || [4]byte(w[:4]) != validSignature {
		return account{}, x402.Errorf(a.code().signature, "payment of %s: the contract there does not take the signature", a.From)
	}
	return account{}, nil
}

// wrapping is a signature by ERC-6492.
type wrapping struct {
	factory   evm.Address
	data      []byte // what makes the account, sent to the factory
	signature []byte // the account's own
}

// unwrap takes an ERC-6492 signature apart. One that names no factory is none.
func unwrap(signature []byte) (w wrapping, ok bool) {
	inner, ok := bytes.CutSuffix(signature, wrapSuffix)
	if !ok {
		return w, false
	}
	factory, ok1 := evm.ABI(inner).Address(0)
	data, ok2 := evm.ABI(inner).Bytes(1)
	own, ok3 := evm.ABI(inner).Bytes(2)
	if !ok1 || !ok2 || !ok3 || factory.IsZero() {
		return w, false
	}
	return wrapping{factory, data, own}, true
}

// wrapSuffix ends every ERC-6492 signature.
var wrapSuffix = bytes.Repeat([]byte{0x64, 0x92}, 16)

// simulate tries the settlement on the newest state. Where Multicall3 is there, the payee's balance is looked at before
// and after, so that a token that moves nothing, or less, is found out before anybody works for it.
func (v *Verifier) simulate(ctx context.Context, a Authorization, payer account, now time.Time) error {
	several, err := v.isContract(ctx, Multicall3, now)
	if err != nil {
		return err
	}
	if a.Method == Permit2 {
		// A call of an account without code succeeds.
		if there, err := v.isContract(ctx, a.Spender, now); err != nil || !there {
			if err == nil {
				err = x402.Errorf("permit2_proxy_not_deployed", "proxy %s is not on chain %d", a.Spender, a.ChainID)
			}
			return err
		}
	}
	if a.Approval != nil && a.Permit == nil {
		// The approval is not on the chain yet, and a call cannot put it there.
		return v.diagnosePermit2(ctx, a, several, true, "")
	}
	m, err := v.Move(a, a.Amount)
	if err != nil {
		return err
	}
	var result answer
	if several && m.Shared {
		balance := callOf(a.Asset, selBalance, addressArg(a.To))
		calls := []call{balance, {m.To, m.Data}, balance}
		at := 1
		if payer.deploy != nil {
			// The account's signature is one that only its own code judges.
			calls, at = append([]call{{payer.deploy.factory, payer.deploy.data}}, calls...), 2
		}
		answers, err := together(ctx, v.Chain, calls)
		if err != nil {
			return err
		}
		result = answers[at]
		if before, ok := answers[at-1].amount(); result.ok && ok && a.From != a.To {
			after, ok := answers[at+1].amount()
			got, grown := after.Sub(before)
			if ok && (!grown || got != a.Amount) {
				result = answer{reason: fmt.Sprintf("the token moves %s when told to move %s", got, a.Amount)}
				if !grown {
					result.reason = "the token takes from the payee"
				}
			}
		}
	} else {
		if payer.deploy != nil {
			return x402.Errorf("invalid_exact_evm_transaction_simulation_failed", "payer %s is not deployed, and chain %d has no Multicall3 to try it with", a.From, a.ChainID)
		}
		from := m.Sender
		if from.IsZero() && len(v.Signers) > 0 {
			from = v.Signers[0]
		}
		if result, err = ask(ctx, v.Chain, from, call{m.To, m.Data}); err != nil {
			return err
		}
	}
	switch {
	case result.ok:
		return nil
	case a.Method == Permit2:
		return v.diagnosePermit2(ctx, a, several, false, result.reason)
	}
	return v.diagnoseTransfer(ctx, a, several, result.reason)
}

// each makes calls that do not depend on each other, at once if the chain can.
func (v *Verifier) each(ctx context.Context, several bool, calls []call) ([]answer, error) {
	if several {
		return together(ctx, v.Chain, calls)
	}
	answers := make([]answer, len(calls))
	for i, c := range calls {
		var err error
		if answers[i], err = ask(ctx, v.Chain, evm.Address{}, c); err != nil {
			return nil, err
		}
	}
	return answers, nil
}

// show writes an amount of the authorization's token for people, in smallest units if the token is not known.
func (a Authorization) show(amount money.Amount) string {
	if on, known := network.ByID(a.ChainID); known {
		if t, err := on.Token(a.Asset.String()); err == nil {
			return t.Asset().Format(amount)
		}
	}
	return amount.String() + " units"
}

// diagnoseTransfer says why a transfer by EIP-3009 was refused.
func (v *Verifier) diagnoseTransfer(ctx context.Context, a Authorization, several bool, reason string) error {
	answers, err := v.each(ctx, several, []call{
		callOf(a.Asset, selBalance, addressArg(a.From)),
		callOf(a.Asset, selName),
		callOf(a.Asset, selVersion),
		callOf(a.Asset, selState, addressArg(a.From), evm.WordArg(a.Nonce)),
	})
	if err != nil {
		return err
	}
	used, known := answers[3].data.Bool(0)
	if !answers[3].ok || !known {
		return x402.Errorf("invalid_exact_evm_eip3009_not_supported", "token %s has no authorizationState", a.Asset)
	}
	if used {
		return x402.Errorf("invalid_exact_evm_nonce_already_used", "nonce %s of %s is used", a.Nonce.Short(), a.From)
	}
	if name, ok := answers[1].text(); ok && name != a.Name {
		return x402.Errorf("invalid_exact_evm_token_name_mismatch", "token %s is %q, terms say %q", a.Asset, clip(name), clip(a.Name))
	}
	if version, ok := answers[2].text(); ok && version != a.Version {
		return x402.Errorf("invalid_exact_evm_token_version_mismatch", "token %s has version %q, terms say %q", a.Asset, clip(version), clip(a.Version))
	}
	if balance, ok := answers[0].amount(); ok && balance.Less(a.Amount) {
		return x402.Errorf("invalid_exact_evm_insufficient_balance", "%s has %s, the payment is of %s", a.From, a.show(balance), a.show(a.Amount))
	}
	return x402.Errorf("invalid_exact_evm_transaction_simulation_failed", "transfer of %s: %s", a.From, reason)
}

// diagnosePermit2 says why a transfer through Permit2 was refused, or, ahead of an approval that is still to come, whether
// it may work.
func (v *Verifier) diagnosePermit2(ctx context.Context, a Authorization, several, ahead bool, reason string) error {
	answers, err := v.each(ctx, several, []call{
		callOf(a.Spender, selPermit2),
		callOf(a.Asset, selBalance, addressArg(a.From)),
		callOf(a.Asset, selAllowance, addressArg(a.From), addressArg(Permit2Address)),
	})
	if err != nil {
		return err
	}
	if permit2, ok := answers[0].data.Address(0); !answers[0].ok || !ok || permit2 != Permit2Address {
		return x402.Errorf("permit2_proxy_not_deployed", "proxy %s is not on chain %d", a.Spender, a.ChainID)
	}
	if balance, ok := answers[1].amount(); ok && balance.Less(a.Amount) {
		return x402.Errorf("permit2_insufficient_balance", "%s has %s, the payment is of %s", a.From, a.show(balance), a.show(a.Amount))
	}
	if ahead {
		return nil
	}
	if allowed, ok := answers[2].amount(); ok && allowed.Less(a.Amount) {
		return x402.Errorf("permit2_allowance_required", "%s allows Permit2 %s, the payment is of %s", a.From, a.show(allowed), a.show(a.Amount))
	}
	return x402.Errorf("permit2_simulation_failed", "permit of %s: %s", a.From, reason)
}

// allowed checks what a legacy authorization draws on. No contract knows its nonce: whoever settles has to.
func (v *Verifier) allowed(ctx context.Context, a Authorization, simulate bool) error {
	balance, err := ask(ctx, v.Chain, evm.Address{}, callOf(a.Asset, selBalance, addressArg(a.From)))
	if err != nil {
		return err
	}
	if has, ok := balance.amount(); ok && has.Less(a.Amount) {
		return x402.Errorf("insufficient_funds", "%s has %s, the payment is of %s", a.From, a.show(has), a.show(a.Amount))
	}
	allowance, err := ask(ctx, v.Chain, evm.Address{}, callOf(a.Asset, selAllowance, addressArg(a.From), addressArg(a.Spender)))
	if err != nil {
		return err
	}
	allowed, ok := allowance.amount()
	if !ok {
		return x402.Errorf("allowance_check_failed", "token %s does not say what %s allows", a.Asset, a.From)
	}
	if allowed.Less(a.Amount) {
		return x402.Errorf("insufficient_allowance", "%s allows %s %s, the payment is of %s", a.From, a.Spender, allowed, a.Amount)
	}
	if !simulate {
		return nil
	}
	m, err := v.Move(a, a.Amount)
	if err != nil {
		return err
	}
	reply, err := ask(ctx, v.Chain, m.Sender, call{m.To, m.Data})
	if err != nil {
		return err
	}
	// Tokens answer with true, or, like the oldest, with nothing.
	if done, said := reply.data.Bool(0); !reply.ok || said && !done {
		return x402.Errorf("settlement_failed", "transfer of %s: %s", a.From, reply.reason)
	}
	return nil
}

// Reverted names the refusal that a settlement met on the chain, or in the simulation before it was sent, by what the
// contract said. An error that is no contract's refusal is returned as it is.
func (a Authorization) Reverted(err error) error {
	r, ok := reverted(err)
	if !ok {
		return err
	}
	words := said(r)
	return x402.Errorf(a.revertCode(words), "settle payment of %s: %s", a.From, words)
}

func (a Authorization) revertCode(said string) string {
	words := strings.ToLower(said)
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(words, p) {
				return true
			}
		}
		return false
	}
	if a.Method == Permit2 {
		switch {
		case has("permit2612amountmismatch"):
			return "permit2_2612_amount_mismatch"
		case has("invalidamount"):
			return "permit2_invalid_amount"
		case has("invaliddestination"):
			return "permit2_invalid_destination"
		case has("invalidowner"):
			return "permit2_invalid_owner"
		case has("paymenttooearly"):
			return "permit2_payment_too_early"
		case has("invalidsignature", "invalidsigner", "invalidcontractsignature", "signatureexpired"):
			return "invalid_permit2_signature"
		case has("invalidnonce"):
			return "permit2_invalid_nonce"
		case has("amountexceedspermitted"):
			return "upto_amount_exceeds_permitted"
		case has("unauthorizedfacilitator"):
			return "upto_unauthorized_facilitator"
		case a.Scheme == UptoScheme:
			return "invalid_upto_evm_transaction_failed"
		}
		return "invalid_exact_evm_transaction_failed"
	}
	switch {
	case a.Method == Legacy:
		return "settlement_failed"
	case has("authorizationexpired", "authorization is expired", "authorization expired"):
		return transferCodes.expired
	case has("authorizationnotyetvalid", "authorization is not yet valid", "authorization not yet valid"):
		return transferCodes.early
	case has("authorizationusedorcanceled", "authorizationalreadyused", "authorization is used", "authorization used"):
		return "invalid_exact_evm_nonce_already_used"
	case has("exceeds balance", "insufficientbalance", "insufficient balance"):
		return "invalid_exact_evm_insufficient_balance"
	case has("invalid signature", "invalidsignature", "signermismatch"):
		return transferCodes.signature
	}
	return "invalid_exact_evm_transaction_failed"
}
