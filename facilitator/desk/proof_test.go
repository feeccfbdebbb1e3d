package desk

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

var (
	token, ann, bob = evm.Address{1}, evm.Address{2}, evm.Address{3}
	amountOf5       = money.Units(5).Word()
)

func transferLog(of, from, to evm.Address, units uint64) evm.Log {
	amount := money.Units(units).Word()
	return evm.Log{Address: of, Topics: []evm.Hash{transferTopic, evm.Hash(from.Word()), evm.Hash(to.Word())}, Data: amount[:]}
}

func usedLog(of, from evm.Address, nonce byte) evm.Log {
	return evm.Log{Address: of, Topics: []evm.Hash{usedTopic, evm.Hash(from.Word()), {nonce}}}
}

func wants(nonce byte, units uint64, mark Mark) Settlement {
	return Settlement{Ask: Ask{Asset: token, Payer: ann, Payee: bob, Amount: money.Units(units), Nonce: evm.Hash{nonce}, Mark: mark}}
}

func TestLogsAreJudged(t *testing.T) {
	t.Parallel()
	long := transferLog(token, ann, bob, 5)
	long.Data = append(long.Data, 0)
	indexed := transferLog(token, ann, bob, 5)
	indexed.Topics = append(indexed.Topics, evm.Hash(amountOf5))
	for _, tt := range []struct {
		name    string
		logs    []evm.Log
		carried []Settlement
		want    []verdict
	}{
		{"the mark and the transfer", []evm.Log{usedLog(token, ann, 1), transferLog(token, ann, bob, 5)}, []Settlement{wants(1, 5, MarkNonce)}, []verdict{moved}},
		{"no log at all", nil, []Settlement{wants(1, 5, MarkNonce)}, []verdict{nothing}},
		{"the mark alone", []evm.Log{usedLog(token, ann, 1)}, []Settlement{wants(1, 5, MarkNonce)}, []verdict{wrong}},
		{"another amount", []evm.Log{usedLog(token, ann, 1), transferLog(token, ann, bob, 4)}, []Settlement{wants(1, 5, MarkNonce)}, []verdict{wrong}},
		{"another payee", []evm.Log{usedLog(token, ann, 1), transferLog(token, ann, ann, 5)}, []Settlement{wants(1, 5, MarkNonce)}, []verdict{wrong}},
		{"another token's transfer", []evm.Log{usedLog(token, ann, 1), transferLog(evm.Address{9}, ann, bob, 5)}, []Settlement{wants(1, 5, MarkNonce)}, []verdict{wrong}},
		{"another nonce's mark", []evm.Log{usedLog(token, ann, 2), transferLog(token, ann, bob, 5)}, []Settlement{wants(1, 5, MarkNonce)}, []verdict{nothing}},
		{"another payer's mark", []evm.Log{usedLog(token, bob, 1), transferLog(token, ann, bob, 5)}, []Settlement{wants(1, 5, MarkNonce)}, []verdict{nothing}},
		{"a token that logs no nonces, alone", []evm.Log{transferLog(token, ann, bob, 5)}, []Settlement{wants(1, 5, MarkNonce)}, []verdict{moved}},
		{"a token that logs no nonces, in company", []evm.Log{transferLog(token, ann, bob, 5), transferLog(token, ann, bob, 5)},
			[]Settlement{wants(1, 5, MarkNonce), wants(2, 5, MarkNonce)}, []verdict{nothing, nothing}},
		{"two equal ones", []evm.Log{usedLog(token, ann, 1), transferLog(token, ann, bob, 5), usedLog(token, ann, 2), transferLog(token, ann, bob, 5)},
			[]Settlement{wants(1, 5, MarkNonce), wants(2, 5, MarkNonce)}, []verdict{moved, moved}},
		{"two marks and one transfer", []evm.Log{usedLog(token, ann, 1), usedLog(token, ann, 2), transferLog(token, ann, bob, 5)},
			[]Settlement{wants(1, 5, MarkNonce), wants(2, 5, MarkNonce)}, []verdict{wrong, moved}},
		{"a transfer before the mark", []evm.Log{transferLog(token, ann, bob, 5), usedLog(token, ann, 1), transferLog(token, ann, ann, 5)},
			[]Settlement{wants(1, 5, MarkNonce)}, []verdict{wrong}},
		{"only the second", []evm.Log{usedLog(token, ann, 2), transferLog(token, ann, bob, 5)},
			[]Settlement{wants(1, 5, MarkNonce), wants(2, 5, MarkNonce)}, []verdict{nothing, moved}},
		{"no mark is needed", []evm.Log{transferLog(token, ann, bob, 5)}, []Settlement{wants(1, 5, MarkData)}, []verdict{moved}},
		{"more data than an amount", []evm.Log{usedLog(token, ann, 1), long}, []Settlement{wants(1, 5, MarkNonce)}, []verdict{wrong}},
		{"a fourth topic", []evm.Log{usedLog(token, ann, 1), indexed}, []Settlement{wants(1, 5, MarkNonce)}, []verdict{wrong}},
		{"logs without topics", []evm.Log{{Address: token}, usedLog(token, ann, 1), transferLog(token, ann, bob, 5)}, []Settlement{wants(1, 5, MarkNonce)}, []verdict{moved}},
	} {
		for i, got := range judge(tt.logs, tt.carried) {
			if got != tt.want[i] {
				t.Errorf("%s: %d is %v, want %v", tt.name, i, got, tt.want[i])
			}
		}
	}
}

// Whatever the logs are, no more settlements are moved than there are transfers.
func TestOneTransferSettlesOnePayment(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var logs []evm.Log
		transfers := 0
		for range rapid.IntRange(0, 8).Draw(t, "logs") {
			if nonce := byte(rapid.IntRange(0, 6).Draw(t, "nonce")); nonce > 0 {
				logs = append(logs, usedLog(token, ann, nonce))
			} else {
				logs = append(logs, transferLog(token, ann, bob, 5))
				transfers++
			}
		}
		var carried []Settlement
		for i := range rapid.IntRange(1, 6).Draw(t, "settlements") {
			carried = append(carried, wants(byte(i+1), 5, MarkNonce))
		}
		settled := 0
		for _, v := range judge(logs, carried) {
			if v == moved {
				settled++
			}
		}
		if settled > transfers {
			t.Fatalf("%d payments are settled by %d transfers", settled, transfers)
		}
	})
}

// The shares of a cost come to the cost.
func TestCostIsSharedToTheUnit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 300).Draw(t, "settlements")
		r := evm.TxReceipt{CallReceipt: evm.CallReceipt{OK: true, GasUsed: rapid.Uint64Range(0, 1<<24).Draw(t, "gas"), FeeWei: rapid.Uint64().Draw(t, "fee")}}
		r.DataFeeWei = money.Units(rapid.Uint64().Draw(t, "data fee")).Word()
		p := &pass{Desk: &Desk{}}
		group := make([]Settlement, n)
		spent := p.share(group, r)
		var gas uint64
		var wei money.Amount
		for _, s := range group {
			gas += s.Gas
			wei, _ = wei.Add(s.Cost)
		}
		if gas != r.GasUsed || !spent[0].Lane || wei != spent[0].Wei || gas != spent[0].Gas {
			t.Fatalf("shares come to %d gas and %s wei, the lane spent %d and %s", gas, wei, spent[0].Gas, spent[0].Wei)
		}
	})
}

// FuzzOutcomes: whatever Multicall3's address answers, reading it neither panics nor invents parts.
func FuzzOutcomes(f *testing.F) {
	result := func(success byte) evm.Arg {
		return evm.TupleArg(evm.WordArg([32]byte{31: success}), evm.BytesArg([]byte{1, 2, 3}))
	}
	f.Add(evm.EncodeArgs(evm.ListArg(result(1), result(0))), 2)
	f.Add(evm.EncodeArgs(evm.ListArg(result(2))), 1)
	f.Add([]byte{}, 0)
	f.Fuzz(func(t *testing.T, answer []byte, n int) {
		got, err := outcomes(answer, n)
		if err == nil && len(got) != n {
			t.Errorf("%d outcomes of %d parts", len(got), n)
		}
	})
}

func TestOutcomesAreRead(t *testing.T) {
	t.Parallel()
	result := func(success byte) evm.Arg {
		return evm.TupleArg(evm.WordArg([32]byte{31: success}), evm.BytesArg([]byte{1, 2, 3}))
	}
	got, err := outcomes(evm.EncodeArgs(evm.ListArg(result(1), result(0), result(1))), 3)
	if err != nil || len(got) != 3 || !got[0] || got[1] || !got[2] {
		t.Errorf("%v, %v", got, err)
	}
	for name, answer := range map[string][]byte{
		"one too few":        evm.EncodeArgs(evm.ListArg(result(1), result(0))),
		"neither yes nor no": evm.EncodeArgs(evm.ListArg(result(1), result(2), result(1))),
		"nothing":            nil,
	} {
		if _, err := outcomes(answer, 3); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}
