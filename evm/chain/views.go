package chain

import (
	"context"
	"fmt"
	"math/big"
	"reflect"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Reader reads a deployment's state at the newest block. It is safe for concurrent use.
type Reader struct {
	Client    *Client
	Contracts Contracts
}

// Phase is where a cycle stands on chain.
type Phase uint8

// The phases of a cycle. One that was not sealed by its deadline has failed, even if nothing was ever posted.
const (
	PhaseNone Phase = iota
	PhasePosting
	PhaseSealed
	PhaseFinal
	PhaseVoided
	PhaseFailed
)

// String returns the phase's name.
func (p Phase) String() string {
	names := [...]string{"none", "posting", "sealed", "final", "voided", "failed"}
	if int(p) < len(names) {
		return names[p]
	}
	return fmt.Sprintf("phase %d", uint8(p))
}

// Cycle is a cycle as the clearing house keeps it.
type Cycle struct {
	Asset       evm.Address
	PeriodStart uint64
	Generation  uint64
	Root        evm.Hash // of the positions; the part posted so far while posting
	Total       money.Amount
	Claimed     money.Amount
	PaidIn      money.Amount
	Finality    uint64 // when its challenge window ends, Unix seconds; 0 until sealed
	Sealed      bool
	Final       bool
	Posted      uint64 // positions posted in this generation
}

// Participant is what a participant has done in a cycle.
type Participant struct{ Paid, Claimed, Defaulted bool }

// Withdrawal is a request that waits for its delay. The zero value is no request.
type Withdrawal struct {
	Amount money.Amount
	When   uint64 // Unix seconds
}

// Collateral returns what an owner has in the vault.
func (r Reader) Collateral(ctx context.Context, owner, asset evm.Address) (money.Amount, error) {
	return r.amount(ctx, r.Contracts.Vault, vaultABI, "collateral(address,address)", common.Address(owner), common.Address(asset))
}

// Withdrawal returns an owner's pending request.
func (r Reader) Withdrawal(ctx context.Context, owner, asset evm.Address) (Withdrawal, error) {
	out, err := r.read(ctx, r.Contracts.Vault, vaultABI, "withdrawalRequests", common.Address(owner), common.Address(asset))
	if err != nil {
		return Withdrawal{}, err
	}
	return Withdrawal{Amount: amountOf(out[1].(*big.Int)), When: out[0].(*big.Int).Uint64()}, nil
}

// WithdrawalDelay returns the seconds between a request and its payment.
func (r Reader) WithdrawalDelay(ctx context.Context) (uint64, error) {
	out, err := r.read(ctx, r.Contracts.Vault, vaultABI, "withdrawalGracePeriod")
	if err != nil {
		return 0, err
	}
	return out[0].(uint64), nil
}

// AutoSettle returns an owner's word on being settled from collateral.
func (r Reader) AutoSettle(ctx context.Context, owner evm.Address) (bool, error) {
	out, err := r.read(ctx, r.Contracts.Vault, vaultABI, "autoSettle", common.Address(owner))
	if err != nil {
		return false, err
	}
	return out[0].(bool), nil
}

// IsSigner reports whether a key signs for an owner now.
func (r Reader) IsSigner(ctx context.Context, owner, key evm.Address) (bool, error) {
	out, err := r.read(ctx, r.Contracts.Vault, vaultABI, "isSigner", common.Address(owner), common.Address(key))
	if err != nil {
		return false, err
	}
	return out[0].(bool), nil
}

// LimitPerCycle returns what a cycle starting at periodStart may take from an owner; [NoLimit] for no limit.
func (r Reader) LimitPerCycle(ctx context.Context, owner, asset evm.Address, periodStart uint64) (money.Amount, error) {
	return r.amount(ctx, r.Contracts.Vault, vaultABI, "limitPerCycle", common.Address(owner), common.Address(asset), periodStart)
}

// Bond returns the operator's bond.
func (r Reader) Bond(ctx context.Context, asset evm.Address) (money.Amount, error) {
	return r.amount(ctx, r.Contracts.Vault, vaultABI, "bond", common.Address(asset))
}

// Tokens returns the tokens that may be deposited now.
func (r Reader) Tokens(ctx context.Context) ([]evm.Address, error) {
	out, err := r.read(ctx, r.Contracts.Vault, vaultABI, "getERC20Tokens")
	if err != nil {
		return nil, err
	}
	list := out[0].([]common.Address)
	tokens := make([]evm.Address, len(list))
	for i, a := range list {
		tokens[i] = evm.Address(a)
	}
	return tokens, nil
}

// CertificateDomain returns the domain of guarantee certificates.
func (r Reader) CertificateDomain(ctx context.Context) (evm.Hash, error) {
	out, err := r.read(ctx, r.Contracts.Vault, vaultABI, "guaranteeDomainSeparator")
	if err != nil {
		return evm.Hash{}, err
	}
	return out[0].([32]byte), nil
}

// CurrentKey returns the key that certifies the cycles of now; zeros while there is none.
func (r Reader) CurrentKey(ctx context.Context) (key Key, err error) {
	out, err := r.read(ctx, r.Contracts.Vault, vaultABI, "GUARANTEE_VERIFICATION_KEY")
	if err != nil {
		return key, err
	}
	for i := range key {
		key[i] = out[i].([32]byte)
	}
	return key, nil
}

// KeyCount returns how many keys were ever registered.
func (r Reader) KeyCount(ctx context.Context) (uint64, error) {
	out, err := r.read(ctx, r.Contracts.Vault, vaultABI, "keyCount")
	if err != nil {
		return 0, err
	}
	return out[0].(*big.Int).Uint64(), nil
}

// Operator returns the account that may post and seal.
func (r Reader) Operator(ctx context.Context) (evm.Address, error) {
	out, err := r.read(ctx, r.Contracts.ClearingHouse, houseABI, "operator")
	if err != nil {
		return evm.Address{}, err
	}
	return evm.Address(out[0].(common.Address)), nil
}

// Phase returns where the cycle of an asset that starts at periodStart stands.
func (r Reader) Phase(ctx context.Context, asset evm.Address, periodStart uint64) (Phase, error) {
	out, err := r.read(ctx, r.Contracts.ClearingHouse, houseABI, "phase", common.Address(asset), periodStart)
	if err != nil {
		return 0, err
	}
	return Phase(out[0].(uint8)), nil
}

// Cycle returns a cycle; the zero Cycle if nothing of it was posted.
func (r Reader) Cycle(ctx context.Context, id evm.Hash) (Cycle, error) {
	kept, err := r.read(ctx, r.Contracts.ClearingHouse, houseABI, "cycle", [32]byte(id))
	if err != nil {
		return Cycle{}, err
	}
	shown, err := r.read(ctx, r.Contracts.ClearingHouse, houseABI, "getCycle", [32]byte(id))
	if err != nil {
		return Cycle{}, err
	}
	k, s := tuple(kept[0]), tuple(shown[0])
	return Cycle{
		Asset:       k.address("Asset"),
		PeriodStart: k.number("PeriodStart"),
		Generation:  uint64(k["Generation"].(uint8)),
		Posted:      k.number("Participants"),
		Root:        k.hash("R"),
		Total:       k.amount("Total"),
		Claimed:     s.amount("TotalClaimedOut"),
		PaidIn:      s.amount("TotalPaidIn"),
		Finality:    s.number("PaymentFinalityDeadline"),
		Sealed:      s.yes("Exists"),
		Final:       s["Status"].(uint8) == 2,
	}, nil
}

// Participant returns what a participant has done in a sealed cycle.
func (r Reader) Participant(ctx context.Context, cycle evm.Hash, who evm.Address) (Participant, error) {
	out, err := r.read(ctx, r.Contracts.ClearingHouse, houseABI, "getParticipantState", [32]byte(cycle), common.Address(who))
	if err != nil {
		return Participant{}, err
	}
	return Participant{Paid: out[2].(bool), Claimed: out[3].(bool), Defaulted: out[4].(bool)}, nil
}

// Schedules returns all versions of an asset's cycle times, the oldest first.
func (r Reader) Schedules(ctx context.Context, asset evm.Address) ([]Schedule, error) {
	out, err := r.read(ctx, r.Contracts.ClearingHouse, houseABI, "schedulesOf", common.Address(asset))
	if err != nil {
		return nil, err
	}
	list := reflect.ValueOf(out[0])
	schedules := make([]Schedule, list.Len())
	for i := range schedules {
		schedules[i] = scheduleOf(tuple(list.Index(i).Interface()))
	}
	return schedules, nil
}

// MinimumBond returns the least bond with which a cycle of that size may be sealed now.
func (r Reader) MinimumBond(ctx context.Context, asset evm.Address, participants uint64, total money.Amount) (money.Amount, error) {
	return r.amount(ctx, r.Contracts.ClearingHouse, houseABI, "minimumBond", common.Address(asset), new(big.Int).SetUint64(participants), bigOf(total))
}

// TokenBalance returns an owner's tokens.
func (c *Client) TokenBalance(ctx context.Context, token, owner evm.Address) (money.Amount, error) {
	return Reader{Client: c}.amount(ctx, token, dollarABI, "balanceOf", common.Address(owner))
}

// Allowance returns what a spender may take from an owner.
func (c *Client) Allowance(ctx context.Context, token, owner, spender evm.Address) (money.Amount, error) {
	return Reader{Client: c}.amount(ctx, token, dollarABI, "allowance", common.Address(owner), common.Address(spender))
}

func (r Reader) amount(ctx context.Context, to evm.Address, contract abi.ABI, name string, args ...any) (money.Amount, error) {
	out, err := r.read(ctx, to, contract, name, args...)
	if err != nil {
		return money.Amount{}, err
	}
	return amountOf(out[0].(*big.Int)), nil
}

func (r Reader) read(ctx context.Context, to evm.Address, contract abi.ABI, name string, args ...any) ([]any, error) {
	answer, err := r.Client.Read(ctx, evm.Address{}, to, pack(contract, name, args...))
	if err != nil {
		return nil, fmt.Errorf("read %s of %v: %w", name, to.Short(), err)
	}
	out, err := methodOf(contract, name).Outputs.Unpack(answer)
	if err != nil {
		return nil, fmt.Errorf("read %s of %v: it is no such contract: %w", name, to.Short(), err)
	}
	return out, nil
}

// tuple returns the fields of a struct that go-ethereum made for a tuple.
func tuple(v any) fields {
	value, f := reflect.ValueOf(v), make(fields)
	for i := range value.NumField() {
		f[value.Type().Field(i).Name] = value.Field(i).Interface()
	}
	return f
}
