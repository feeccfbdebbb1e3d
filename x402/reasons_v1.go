package x402

// closedReasons are the reasons for which x402's version-1 package has words, as far as they are about EVM networks. It
// declares the list closed, so clients may refuse an answer with any other.
var closedReasons = map[string]bool{
	"insufficient_funds": true, "invalid_exact_evm_payload_authorization_valid_after": true, "invalid_exact_evm_payload_authorization_valid_before": true,
	"invalid_exact_evm_payload_authorization_value": true, "invalid_exact_evm_payload_signature": true, "invalid_exact_evm_payload_undeployed_smart_wallet": true,
	"invalid_exact_evm_payload_recipient_mismatch": true, "invalid_network": true, "invalid_payload": true, "invalid_payment_requirements": true,
	"invalid_scheme": true, "invalid_payment": true, "payment_expired": true, "unsupported_scheme": true, "invalid_x402_version": true,
	"invalid_transaction_state": true, "unexpected_settle_error": true, "unexpected_verify_error": true, "duplicate_settlement": true,
}

// nearestClosed are the reasons of the list that say the same of what came later, or the least that is true of it. What is
// in neither is invalid_payment: a refusal of the payment for a reason that the list does not have.
var nearestClosed = map[string]string{
	"invalid_exact_evm_scheme":                               "invalid_scheme",
	"invalid_upto_evm_scheme":                                "unsupported_scheme",
	"invalid_exact_evm_missing_eip712_domain":                "invalid_payment_requirements",
	"invalid_exact_evm_token_name_mismatch":                  "invalid_payment_requirements",
	"invalid_exact_evm_token_version_mismatch":               "invalid_payment_requirements",
	"invalid_exact_evm_eip3009_not_supported":                "invalid_payment_requirements",
	"asset_not_deployed_contract":                            "invalid_payment_requirements",
	"invalid_exact_evm_network_mismatch":                     "invalid_network",
	"invalid_upto_evm_network_mismatch":                      "invalid_network",
	"invalid_exact_evm_signature":                            "invalid_exact_evm_payload_signature",
	"invalid_exact_evm_failed_to_parse_signature":            "invalid_exact_evm_payload_signature",
	"invalid_permit2_signature":                              "invalid_exact_evm_payload_signature",
	"payer_signature_invalid":                                "invalid_exact_evm_payload_signature",
	"high_s":                                                 "invalid_exact_evm_payload_signature",
	"invalid_exact_evm_recipient_mismatch":                   "invalid_exact_evm_payload_recipient_mismatch",
	"invalid_permit2_recipient_mismatch":                     "invalid_exact_evm_payload_recipient_mismatch",
	"invalid_exact_evm_authorization_value":                  "invalid_exact_evm_payload_authorization_value",
	"invalid_exact_evm_payload_authorization_value_mismatch": "invalid_exact_evm_payload_authorization_value",
	"permit2_amount_mismatch":                                "invalid_exact_evm_payload_authorization_value",
	"permit2_deadline_expired":                               "invalid_exact_evm_payload_authorization_valid_before",
	"settlement_too_late":                                    "invalid_exact_evm_payload_authorization_valid_before",
	"authorization_expired":                                  "invalid_exact_evm_payload_authorization_valid_before",
	"authorization_not_yet_valid":                            "invalid_exact_evm_payload_authorization_valid_after",
	"permit2_not_yet_valid":                                  "invalid_exact_evm_payload_authorization_valid_after",
	"permit2_payment_too_early":                              "invalid_exact_evm_payload_authorization_valid_after",
	"invalid_exact_evm_insufficient_balance":                 "insufficient_funds",
	"permit2_insufficient_balance":                           "insufficient_funds",
	"invalid_exact_evm_nonce_already_used":                   "duplicate_settlement",
	"permit2_invalid_nonce":                                  "duplicate_settlement",
	"payment_used":                                           "duplicate_settlement",
	"eip6492_factory_not_allowed":                            "invalid_exact_evm_payload_undeployed_smart_wallet",
	"smart_wallet_deployment_failed":                         "invalid_exact_evm_payload_undeployed_smart_wallet",
	"unsupported_payload_type":                               "invalid_payload",
	"payment_undecodable":                                    "invalid_payload",
	"invalid_t402_version":                                   "invalid_x402_version",
	"insufficient_allowance":                                 "insufficient_funds",
	"settlement_failed":                                      "invalid_transaction_state",
	"asset_not_served":                                       "unsupported_scheme",
	"asset_unsupported":                                      "unsupported_scheme",
	"call_not_served":                                        "unsupported_scheme",
	"invalid_exact_evm_transaction_failed":                   "invalid_transaction_state",
	"invalid_upto_evm_transaction_failed":                    "invalid_transaction_state",
	"invalid_exact_evm_transaction_simulation_failed":        "invalid_transaction_state",
	"permit2_simulation_failed":                              "invalid_transaction_state",
	"erc20_approval_tx_failed":                               "invalid_transaction_state",
	"erc20_approval_broadcast_failed":                        "invalid_transaction_state",

	// Whether money moved is open after these, so nothing may be said that sounds like a refusal.
	"settlement_pending":                        "unexpected_settle_error",
	"invalid_exact_evm_transfer_event_mismatch": "unexpected_settle_error",

	// The payment was not looked at.
	"chain_unreachable": "unexpected_verify_error", "rate_limited": "unexpected_verify_error", "settlement_busy": "unexpected_verify_error",
	"internal": "unexpected_verify_error", "book_unavailable": "unexpected_verify_error",
}

// t402Reasons are the reasons of the closed list that T402's text does not have, and what it says instead.
var t402Reasons = map[string]string{
	"invalid_x402_version": "invalid_t402_version",
	"invalid_payment":      "invalid_payload",
	"payment_expired":      "invalid_exact_evm_payload_authorization_valid_before",
	"duplicate_settlement": "invalid_transaction_state",
	"invalid_exact_evm_payload_undeployed_smart_wallet": "invalid_exact_evm_payload_signature",
}

// ReasonFor returns the reason to give for a code in answers to a payment: the code itself in version 2 of x402, the nearest
// one of the closed list in version 1, and that one as T402's text has it in T402.
func ReasonFor(d Dialect, version int, code string) string {
	if code == "" || d != T402 && version != 1 {
		return code
	}
	if !closedReasons[code] {
		near, ok := nearestClosed[code]
		if !ok {
			near = "invalid_payment"
		}
		code = near
	}
	if other, ok := t402Reasons[code]; ok && d == T402 {
		return other
	}
	return code
}

// meanings are reasons that T402's services give for what has a row under another code. Those that they give for several
// things are not here.
var meanings = map[string]string{
	"network_mismatch": "invalid_exact_evm_network_mismatch", "missing_signature": "invalid_payload", "recipient_mismatch": "invalid_exact_evm_recipient_mismatch",
	"insufficient_amount": "invalid_exact_evm_payload_authorization_value", "nonce_already_used": "invalid_exact_evm_nonce_already_used",
	"insufficient_balance": "invalid_exact_evm_insufficient_balance", "invalid_signature": "invalid_exact_evm_signature",
	"invalid_signature_format": "invalid_exact_evm_failed_to_parse_signature", "transaction_failed": "invalid_exact_evm_transaction_failed",
	"no_facilitator_for_network": "invalid_network", "PERMIT2_ALLOWANCE_REQUIRED": "permit2_allowance_required",

	"T402-1006": "invalid_exact_evm_signature", "T402-1007": "invalid_network", "T402-1008": "invalid_scheme", "T402-1009": "invalid_exact_evm_payload_authorization_value_mismatch",
	"T402-1011": "payment_expired", "T402-1012": "invalid_exact_evm_nonce_already_used", "T402-2005": "rate_limited", "T402-3003": "invalid_exact_evm_insufficient_balance",
	"T402-3004": "permit2_allowance_required", "T402-3005": "payment_mismatch", "T402-3006": "duplicate_settlement", "T402-3007": "settlement_pending", "T402-3008": "settlement_pending",
	"T402-4001": "chain_unreachable",
}

// Meaning returns the row of a reason that somebody else's server or facilitator gave, under whatever name it has there.
func Meaning(reason string) (Reason, bool) {
	if r, ok := Lookup(reason); ok {
		return r, true
	}
	return Lookup(meanings[reason])
}
