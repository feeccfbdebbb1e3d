package exact

import (
	"context"
	"fmt"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/x402"
)

// ProbeToken compares what is written down about a token with the token. A wrong signing domain would give signatures
// that never verify, wrong decimals prices that are off by powers of ten, so the error of a difference is an
// [*x402.Error] that says which; every other error means that the chain did not answer. Symbols are names among people
// and are not compared.
func ProbeToken(ctx context.Context, chain Chain, t network.Token) error {
	differs := func(format string, args ...any) error {
		what := fmt.Sprintf("token %s at %s on chain %d: ", t.Symbol, t.Address, chain.ChainID())
		return x402.Errorf("chain_mismatch", "%s", what+fmt.Sprintf(format, args...)).
			WithHint("correct the token's entry in networks.yaml, or the RPC URL")
	}
	code, err := chain.Code(ctx, t.Address)
	if err != nil {
		return fmt.Errorf("code of token %s: %w", t.Address, err)
	}
	if len(code) == 0 {
		return differs("no contract is there")
	}
	read := func(c call) (answer, error) { return ask(ctx, chain, evm.Address{}, c) }

	decimals, err := read(callOf(t.Address, selDecimals))
	if err != nil {
		return err
	}
	if n, ok := decimals.data.Uint64(0); !decimals.ok || !ok {
		return differs("it does not say its decimals")
	} else if n != uint64(t.Decimals) {
		return differs("it has %d decimals, not %d", n, t.Decimals)
	}
	if t.EIP3009 || t.EIP2612 || t.Name != "" {
		if err := probeDomain(ctx, chain, t, differs); err != nil {
			return err
		}
	}
	if t.EIP3009 {
		// Nobody's nonce 0 is one that nobody can have used.
		state, err := read(callOf(t.Address, selState, addressArg(evm.Address{}), evm.WordArg([32]byte{})))
		if err != nil {
			return err
		}
		if _, ok := state.data.Bool(0); !state.ok || !ok {
			return differs("it has no transfer by signature (EIP-3009)")
		}
	}
	if t.EIP2612 {
		nonce, err := read(callOf(t.Address, selNonces, addressArg(evm.Address{})))
		if err != nil {
			return err
		}
		if _, ok := nonce.amount(); !ok {
			return differs("it has no permits (EIP-2612)")
		}
	}
	return nil
}

// probeDomain compares signing domains: by their separator, as most tokens have it, or by their members (EIP-5267).
func probeDomain(ctx context.Context, chain Chain, t network.Token, differs func(string, ...any) error) error {
	want := t.Domain(chain.ChainID()).Separator()
	separator, err := ask(ctx, chain, evm.Address{}, callOf(t.Address, selSeparator))
	if err != nil {
		return err
	}
	if got, ok := separator.data.Word(0); separator.ok && ok {
		if got == want {
			return nil
		}
		// The names say what to write instead, if they are the domain's.
		name, version := "", ""
		for text, selector := range map[*string][4]byte{&name: selName, &version: selVersion} {
			reply, err := ask(ctx, chain, evm.Address{}, callOf(t.Address, selector))
			if err != nil {
				return err
			}
			*text, _ = reply.text()
		}
		return differs("its signing domain is not %q version %q; it calls itself %q version %q", t.Name, t.Version, clip(name), clip(version))
	}
	domain, err := ask(ctx, chain, evm.Address{}, callOf(t.Address, selDomain))
	if err != nil {
		return err
	}
	if !domain.ok {
		return differs("it does not say its signing domain")
	}
	// (bytes1 fields, string name, string version, uint256 chainId, address verifyingContract, bytes32 salt, uint256[] extensions)
	name, ok1 := domain.data.Bytes(1)
	version, ok2 := domain.data.Bytes(2)
	id, ok3 := domain.data.Uint64(3)
	contract, ok4 := domain.data.Address(4)
	fields, ok5 := domain.data.Word(0)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 {
		return differs("its signing domain cannot be read")
	}
	if string(name) != t.Name || string(version) != t.Version || id != chain.ChainID() || contract != t.Address || fields[0] != 0x0f {
		return differs("its signing domain is %q version %q of chain %d and contract %s, not %q version %q",
			clip(string(name)), clip(string(version)), id, contract, t.Name, t.Version)
	}
	return nil
}
