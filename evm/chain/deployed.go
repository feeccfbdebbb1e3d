package chain

import (
	"context"
	"math/big"
	"reflect"
	"slices"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// shows reports whether the chain shows what a step does. It asks for the effect, not for a transaction: whoever
// recorded the transaction may not have lived to write it down.
func (d *Deployment) shows(ctx context.Context, client *Client, step DeployStep) (bool, error) {
	if !step.Creates.IsZero() {
		code, err := client.Code(ctx, step.Creates)
		if err != nil || len(code) == 0 {
			return false, err
		}
		if !d.artifact(step.Creates).Matches(code) {
			return false, ErrOtherCode
		}
		return true, nil
	}
	if there, err := client.Code(ctx, d.ClearingHouse); err != nil || len(there) == 0 {
		return false, err
	}
	r := Reader{Client: client, Contracts: d.Contracts}
	name, args := unpackCall(step.Data)
	switch name {
	case "setSchedule":
		list, err := r.Schedules(ctx, evm.Address(args[0].(common.Address)))
		return slices.Contains(list, scheduleOf(tuple(args[1]))), err
	case "setBondRule":
		return r.hasBondRule(ctx, evm.Address(args[0].(common.Address)), args[1].(*big.Int), args[2].(*big.Int), args[3].(uint16))
	case "registerKey":
		return r.hasKey(ctx, args[0])
	case "depositBond":
		bond, err := r.Bond(ctx, evm.Address(args[0].(common.Address)))
		return !bond.Less(amountOf(args[1].(*big.Int))), err
	}
	// What prepares a bond leaves no trace that lasts: it is done when the bond is.
	for _, later := range d.Steps {
		if name, args := unpackCall(later.Data); name == "depositBond" && evm.Address(args[0].(common.Address)) == step.To {
			return d.shows(ctx, client, later)
		}
	}
	return false, nil
}

// unpackCall reads a call of our contracts; the name is empty for anything else.
func unpackCall(data []byte) (string, []any) {
	if len(data) < 4 {
		return "", nil
	}
	for _, contract := range knownABIs {
		if method, err := contract.MethodById(data[:4]); err == nil {
			if args, err := method.Inputs.Unpack(data[4:]); err == nil {
				return method.RawName, args
			}
		}
	}
	return "", nil
}

// hasBondRule compares the rule by what it asks for: nothing, many participants, a large total.
func (r Reader) hasBondRule(ctx context.Context, asset evm.Address, floor, perParticipant *big.Int, shareBps uint16) (bool, error) {
	const participants = 1 << 40
	total := new(big.Int).Lsh(big.NewInt(1), 111)
	for _, ask := range []struct {
		participants uint64
		total        *big.Int
		want         *big.Int
	}{
		{0, new(big.Int), new(big.Int)},
		{participants, new(big.Int), new(big.Int).Mul(perParticipant, big.NewInt(participants))},
		{0, total, new(big.Int).Div(new(big.Int).Mul(total, big.NewInt(int64(shareBps))), big.NewInt(10_000))},
	} {
		least, err := r.MinimumBond(ctx, asset, ask.participants, amountOf(ask.total))
		if err != nil {
			return false, err
		}
		if least != money.Max(amountOf(ask.want), amountOf(floor)) {
			return false, nil
		}
	}
	return true, nil
}

// hasKey reports whether a key, as go-ethereum unpacks it, was ever registered.
func (r Reader) hasKey(ctx context.Context, key any) (bool, error) {
	count, err := r.KeyCount(ctx)
	if err != nil {
		return false, err
	}
	for i := range count {
		out, err := r.read(ctx, r.Contracts.Vault, vaultABI, "keyAt", new(big.Int).SetUint64(i))
		if err != nil {
			return false, err
		}
		if reflect.DeepEqual(tuple(out[0]), tuple(key)) {
			return true, nil
		}
	}
	return false, nil
}

func scheduleOf(f fields) Schedule {
	return Schedule{
		FromStart: f.number("FromStart"), Length: f.seconds("Length"), Cutoff: f.seconds("Cutoff"), Post: f.seconds("Post"),
		Challenge: f.seconds("Challenge"), Repost: f.seconds("Repost"), Redeem: f.seconds("Redeem"),
	}
}

func construct(contract abi.ABI, args ...any) []byte {
	data, err := contract.Pack("", args...)
	if err != nil {
		panic("pack constructor: " + err.Error()) // the arguments are ours
	}
	return data
}
