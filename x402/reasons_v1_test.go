package x402

import (
	"strings"
	"testing"
)

// t402Text are the reasons of T402's text.
var t402Text = strings.Fields(`insufficient_funds invalid_exact_evm_payload_authorization_valid_after invalid_exact_evm_payload_authorization_valid_before
	invalid_exact_evm_payload_authorization_value invalid_exact_evm_payload_signature invalid_exact_evm_payload_recipient_mismatch invalid_network
	invalid_payload invalid_payment_requirements invalid_scheme unsupported_scheme invalid_t402_version invalid_transaction_state
	unexpected_verify_error unexpected_settle_error`)

// Every code that a facilitator could give has a reason that clients of version 1 and of T402 know.
func TestOldClientsAreGivenReasonsThatTheyKnow(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, code := range t402Text {
		known[code] = true
		if _, ok := Lookup(code); !ok {
			t.Errorf("%s has no row", code)
		}
		if got := ReasonFor(T402, 2, code); got != code {
			t.Errorf("T402's own %s is given as %s", code, got)
		}
	}
	for code := range closedReasons {
		if _, ok := Lookup(code); !ok {
			t.Errorf("%s has no row", code)
		}
		if got := ReasonFor(X402, 1, code); got != code {
			t.Errorf("version 1's own %s is given as %s", code, got)
		}
	}
	for code, near := range nearestClosed {
		if _, ok := Lookup(code); !ok || closedReasons[code] || !closedReasons[near] {
			t.Errorf("%s (row %v) is mapped to %s", code, ok, near)
		}
	}
	for _, r := range All() {
		if got := ReasonFor(X402, 2, r.Code); got != r.Code {
			t.Errorf("version 2 is given %s for %s", got, r.Code)
		}
		if got := ReasonFor(X402, 1, r.Code); !closedReasons[got] {
			t.Errorf("version 1 is given %s for %s", got, r.Code)
		}
		for version := 1; version <= 2; version++ {
			if got := ReasonFor(T402, version, r.Code); !known[got] {
				t.Errorf("T402 version %d is given %s for %s", version, got, r.Code)
			}
		}
		// Who may have paid must not be told that the payment was refused.
		if open := r.Exit == 5; open != (ReasonFor(X402, 1, r.Code) == "unexpected_settle_error") {
			t.Errorf("%s leaves the outcome open: %v, and is given as %s", r.Code, open, ReasonFor(X402, 1, r.Code))
		}
	}
	for code, want := range map[string]string{
		"": "", "no_such_code": "invalid_payment", "invalid_exact_evm_nonce_already_used": "duplicate_settlement", "permit2_allowance_required": "invalid_payment",
		"settlement_pending": "unexpected_settle_error", "invalid_exact_evm_insufficient_balance": "insufficient_funds",
	} {
		if got := ReasonFor(X402, 1, code); got != want {
			t.Errorf("version 1 is given %q for %q, want %q", got, code, want)
		}
	}
	if got := ReasonFor(T402, 2, "invalid_x402_version"); got != "invalid_t402_version" {
		t.Errorf("T402 is told %s", got)
	}
}

func TestMeaningOfOtherPeoplesReasons(t *testing.T) {
	t.Parallel()
	for reason, want := range map[string]string{
		"insufficient_funds": "insufficient_funds", "nonce_already_used": "invalid_exact_evm_nonce_already_used", "T402-3007": "settlement_pending",
		"PERMIT2_ALLOWANCE_REQUIRED": "permit2_allowance_required", "something_new": "", "": "", "T402-9999": "",
	} {
		if r, ok := Meaning(reason); r.Code != want || ok != (want != "") {
			t.Errorf("%q means %q (%v), want %q", reason, r.Code, ok, want)
		}
	}
	for reason, code := range meanings {
		if _, ok := Lookup(reason); ok {
			t.Errorf("%s has a row of its own", reason)
		}
		if _, ok := Lookup(code); !ok {
			t.Errorf("%s means %s, which has no row", reason, code)
		}
	}
}

// The reasons of the reference for exact, Permit2, gas sponsoring and upto.
func TestPublishedReasonsHaveRows(t *testing.T) {
	t.Parallel()
	groups := map[string]string{
		"invalid_exact_evm": `_scheme _network_mismatch _missing_eip712_domain _recipient_mismatch _signature _authorization_value _payload_authorization_valid_before
			_payload_authorization_valid_after _payload_authorization_value_mismatch _transaction_failed _transfer_event_mismatch _token_name_mismatch _token_version_mismatch
			_eip3009_not_supported _nonce_already_used _insufficient_balance _transaction_simulation_failed _failed_to_parse_signature`,
		"": `asset_not_deployed_contract unsupported_payload_type invalid_transaction_state eip6492_factory_not_allowed smart_wallet_deployment_failed settlement_pending
			invalid_permit2_spender invalid_permit2_recipient_mismatch invalid_permit2_signature invalid_eip2612_extension_format invalid_erc20_approval_extension_format
			erc20_approval_broadcast_failed upto_amount_exceeds_permitted upto_unauthorized_facilitator upto_facilitator_mismatch extension_echo_mismatch`,
		"permit2_": `deadline_expired not_yet_valid amount_mismatch token_mismatch allowance_required simulation_failed insufficient_balance proxy_not_deployed
			invalid_amount invalid_destination invalid_owner invalid_nonce payment_too_early 2612_amount_mismatch`,
		"eip2612_":           `from_mismatch asset_mismatch spender_not_permit2 deadline_expired`,
		"erc20_approval_":    `from_mismatch asset_mismatch spender_not_permit2`,
		"erc20_approval_tx_": `wrong_target wrong_selector wrong_spender invalid_calldata signer_mismatch invalid_signature parse_failed failed`,
		"invalid_upto_evm_":  `scheme network_mismatch transaction_failed payload_settlement_exceeds_amount`,
	}
	for prefix, codes := range groups {
		for code := range strings.FieldsSeq(codes) {
			r, ok := Lookup(prefix + code)
			status := 402
			switch r.Code {
			case "permit2_allowance_required":
				status = 412
			case "settlement_pending":
				status = 503
			}
			if !ok || r.Status != status {
				t.Errorf("%s: %+v, want status %d", prefix+code, r, status)
			}
		}
	}
}
