package clearing_test

import (
	"errors"
	"testing"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/clearing/booktest"
	"github.com/farthing402/farthing/evm"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	booktest.Run(t, func(*testing.T) clearing.Book { return clearing.NewMemory() })
}

// A simulated chain takes calls in the order in which they were asked for, and finishes them.
func TestMemoryOutbox(t *testing.T) {
	t.Parallel()
	m := clearing.NewMemory()
	err := m.Write(t.Context(), func(tx clearing.Tx) error {
		return errors.Join(tx.Enqueue(evm.Call{ID: "b"}), tx.Enqueue(evm.Call{ID: "a"}), tx.Enqueue(evm.Call{ID: "c"}), tx.Enqueue(evm.Call{ID: "b"}))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Finish("a", evm.CallReverted); err != nil {
		t.Fatal(err)
	}
	if err := m.Finish("d", evm.CallDone); !errors.Is(err, evm.ErrNoCall) {
		t.Errorf("finishing no call: %v", err)
	}
	queued := m.Queued()
	if len(queued) != 2 || queued[0].ID != "b" || queued[1].ID != "c" {
		t.Errorf("queued %v", queued)
	}
	_ = m.Read(t.Context(), func(tx clearing.Tx) error {
		if state, found, err := tx.CallState("a"); state != evm.CallReverted || !found || err != nil {
			t.Errorf("state %s, %v, %v", state, found, err)
		}
		if err := tx.PutSchedule(clearing.Schedule{}); err == nil {
			t.Error("a reading transaction writes")
		}
		return nil
	})
}
