package chain

import (
	"errors"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/devchain"
)

var transferTopic = evm.Keccak256([]byte("Transfer(address,address,uint256)"))

func TestAReceiptTellsWhatATransactionDid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann, bob := key(0).Address(), key(1).Address()
	call := w.send(key(0), give(bob, 5))[0]
	r, err := w.client.Receipt(t.Context(), call.Receipt.TxHash)
	if err != nil || r == nil {
		t.Fatalf("%v, %v", r, err)
	}
	if r.CallReceipt != *call.Receipt || r.From != ann || r.To != devchain.TestDollar || r.DataFeeWei != [32]byte{} {
		t.Errorf("%+v", r)
	}
	if len(r.Logs) != 1 || r.Logs[0].Address != devchain.TestDollar || r.Logs[0].Topics[0] != transferTopic || r.Logs[0].TxHash != r.TxHash {
		t.Errorf("logs %+v", r.Logs)
	}
	if none, err := w.client.Receipt(t.Context(), evm.Hash{1}); none != nil || err != nil {
		t.Errorf("a transaction that is not there: %v, %v", none, err)
	}
	input, err := w.client.Input(t.Context(), r.TxHash)
	if err != nil || string(input) != string(call.Data) {
		t.Errorf("input %x, %v", input, err)
	}
	if none, err := w.client.Input(t.Context(), evm.Hash{1}); none != nil || err != nil {
		t.Errorf("a transaction that is not there: %v, %v", none, err)
	}
}

func TestLogsAreFoundByTheirTopics(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann, bob, carol := key(0).Address(), key(1).Address(), key(2).Address()
	w.send(key(0), give(bob, 5), give(carol, 6), give(bob, 7))
	at := w.chain.Height()
	for _, tt := range []struct {
		name        string
		contract    evm.Address
		topics      []evm.Hash
		first, last uint64
		want        int
	}{
		{"all", devchain.TestDollar, nil, 0, at, 3},
		{"to one", devchain.TestDollar, []evm.Hash{transferTopic, {}, evm.Hash(bob.Word())}, 0, at, 2},
		{"from one", devchain.TestDollar, []evm.Hash{transferTopic, evm.Hash(ann.Word())}, 0, at, 3},
		{"from another", devchain.TestDollar, []evm.Hash{transferTopic, evm.Hash(bob.Word())}, 0, at, 0},
		{"of another contract", evm.Address{1}, nil, 0, at, 0},
		{"of earlier blocks", devchain.TestDollar, nil, 0, 0, 0},
	} {
		if logs, err := w.client.Logs(t.Context(), tt.contract, tt.topics, tt.first, tt.last); err != nil || len(logs) != tt.want {
			t.Errorf("%s: %d logs, %v; want %d", tt.name, len(logs), err, tt.want)
		}
	}
}

func TestAnEstimateTellsRefusalFromTrouble(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	call := give(key(1).Address(), 5)
	call.From = key(0).Address()
	if gas, err := w.client.Estimate(t.Context(), call); err != nil || gas < 21_000 {
		t.Errorf("gas %d, %v", gas, err)
	}
	poor := call
	poor.From = evm.Address{1}
	var refused *RevertError
	if _, err := w.client.Estimate(t.Context(), poor); !errors.As(err, &refused) || len(refused.RevertData()) < 4 || refused.RevertReason() == "" {
		t.Errorf("a transfer of what is not there: %v", err)
	}
}

// A payer's own approval is relayed, not sent: asking the node twice is no error, and what is no transaction is.
func TestSomebodyElsesTransactionIsRelayedOnce(t *testing.T) {
	t.Parallel()
	l := newLane(newWorld(t), Policy{})
	l.ask("pay", give(key(1).Address(), 5))
	l.step()
	raw := l.call("pay").Attempts[0].Raw
	for _, when := range []string{"while it waits", "once it is mined"} {
		if err := l.client.Relay(t.Context(), raw); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		l.mine(1)
	}
	if err := l.client.Relay(t.Context(), []byte{2, 1}); err == nil {
		t.Error("nonsense was relayed")
	}
}
