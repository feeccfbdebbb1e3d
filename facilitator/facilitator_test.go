package facilitator_test

import (
	"testing"
)

func TestAPaymentIsVerifiedAndSettled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := terms(500)
	p := w.pay(payer(0), r)
	s := w.accepted(p, r)
	if s.Transaction == "" || s.Network != "eip155:31337" || s.Payer != payer(0).Address().String() || s.Amount != "500" {
		t.Errorf("settled: %+v", s)
	}
	if again := w.settle(p, r); !again.Success || again.Transaction != s.Transaction {
		t.Errorf("again: %+v", again)
	}
	if v := w.verify(p, r); v.IsValid || v.InvalidReason != "invalid_exact_evm_nonce_already_used" {
		t.Errorf("verified again: %+v", v)
	}
	if w.dollars(payee) != 500 {
		t.Errorf("%d units moved", w.dollars(payee))
	}
}
