package x402

import (
	"slices"
	"strings"

	"github.com/farthing402/farthing/network"
)

// Reason is one row of the table of error codes. Codes are part of the protocol: they are only ever added.
type Reason struct {
	Code   string `json:"code"`
	Status int    `json:"status"` // HTTP
	Exit   int    `json:"exit"`   // of the command
	Retry  string `json:"retry"`  // "never", "same payment", "new payment" or "after" doing the remedy
	What   string `json:"cause"`
	Money  string `json:"money"` // effect on money
	Remedy string `json:"remedy"`
}

const (
	notCharged = "Nothing was charged."
	notSigned  = "Nothing was signed."
)

// reasons are farthing's own codes. They and the protocol's are the one table; docs/errors.md is made from it.
var reasons = []Reason{
	{"usage", 400, 2, "after", "The command line, or the request, does not say what is needed.", notCharged, "See farthing VERB --help."},
	{"config_invalid", 500, 2, "after", "A setting or file cannot be used.", notCharged, "Mend what the message names; nothing was changed."},
	{"price_invalid", 500, 2, "after", "A price cannot be what it says.", notCharged, "Write it as $0.0005, $0.01 per 100 records, or 0.001 USDC per MB out."},
	{"asset_unknown", 400, 2, "after", "No token of that name is known on that network.", notCharged, "Use a known one, or add its address to networks.yaml."},
	{"network_unknown", 400, 2, "after", "No network of that name is known.", notCharged, "Use a known one, or add it to networks.yaml."},
	{"chain_mismatch", 500, 1, "after", "The chain behind the RPC URL is not the one that was named, or carries other contracts.", notCharged, "Check --rpc-url, --network and deployment.json."},
	{"chain_unreachable", 503, 1, "same payment", "The chain does not answer.", "Nothing moved; what was sent stays recorded and is followed up.", "Check the RPC URL and try again."},
	{"keystore_passphrase", 500, 2, "after", "The passphrase of a key file is wrong or not given.", notSigned, "Name a file with FARTHING_PASSPHRASE_FILE, or type it when asked."},
	{"fee_unknown", 400, 2, "after", "What gas costs on a network, or what its coin is worth, is not known.", notCharged, "Name a node with --rpc-url, or give --gas-price and --native-price."},
	{"below_break_even", 500, 1, "after", "A route would sell at a loss.", notCharged, "Sell a bundle, raise the price, or pass --allow-loss."},

	{"payment_required", 402, 4, "new payment", "The resource has a price and the request carried no payment.", notCharged, "Pay it: farthing get --max LIMIT URL."},
	{"payment_undecodable", 402, 4, "new payment", "The payment header is not what x402 describes.", notCharged, "Send standard base64 of the JSON payload in one payment header."},
	{"payment_header_duplicate", 400, 4, "new payment", "There is more than one payment header.", notCharged, "Send exactly one of PAYMENT-SIGNATURE and X-PAYMENT."},
	{"payment_header_oversized", 400, 4, "new payment", "The payment header is larger than 8 KiB.", notCharged, "Send only the payload."},
	{"payment_mismatch", 402, 4, "new payment", "The payment is for something else than this request: price, asset, payee, network or terms differ.", notCharged, "Sign what this 402 asks for."},
	{"quote_expired", 402, 4, "new payment", "The price that the payment accepts is no longer offered.", notCharged, "Sign the new quote in this 402."},
	{"payment_used", 409, 4, "new payment", "The payment has bought something already.", "Not charged again.", "The same request gives the stored answer; another request needs its own payment."},
	{"payment_in_progress", 409, 4, "same payment", "The payment's request is being worked on.", "Not charged again.", "Ask again with the same payment in a moment."},
	{"payment_void", 402, 4, "new payment", "The payment's purchase ended without a charge.", notCharged, "Sign a new payment."},
	{"bundle_exhausted", 402, 4, "new payment", "Nothing is left of the bundle that the request draws from, or its time is over.", notCharged, "Buy the next one: sign what this 402 asks for."},
	{"payer_signature_invalid", 402, 4, "new payment", "The signature is not the payer's.", notCharged, "Sign with the key of the payer's address."},
	{"high_s", 402, 4, "new payment", "The signature is not in its one canonical form.", notCharged, "Sign with low s, as all current libraries do."},
	{"eip191_off", 402, 4, "new payment", "The claims are signed as a text message, which this clearing house does not admit.", notCharged, "Sign typed data (EIP-712)."},
	{"validation_invalid", 402, 4, "new payment", "What the payment says about its validator cannot be met, or is not bound to the payment.", notCharged, "Sign a score of 1 to 100, the job's hash, the house's chain, and the two hashes that follow from the rest."},
	{"registry_untrusted", 402, 4, "new payment", "The payment depends on a registry of validators that the clearing house does not trust.", notCharged, "Name one that /core/public-params lists."},
	{"timestamp_skew", 402, 4, "new payment", "The payment's time is too far from the clearing house's.", notCharged, "Set the clock (NTP) and retry."},
	{"collateral_insufficient", 402, 4, "after", "The payer has less free collateral than the guarantee needs.", notCharged, "Deposit more, or wait until the current cycle frees some."},
	{"limit_per_cycle_exceeded", 402, 4, "after", "The payer's own limit per cycle would be passed.", notCharged, "Raise the limit, or wait for the next cycle."},
	{"asset_unsupported", 402, 4, "new payment", "The clearing house does not clear this asset.", notCharged, "Pay in an asset that it lists."},
	{"cycle_closed", 409, 4, "new payment", "The cycle that the guarantee would count in is closed.", notCharged, "Sign a new payment; it counts in the cycle that is open."},
	{"guarantee_expired", 402, 4, "new payment", "The guarantee can no longer be certified or charged: its time is over.", notCharged, "Sign a new payment."},
	{"amount_invalid", 402, 4, "new payment", "The amount is zero, or larger than the chain can hold.", notCharged, "Sign the amount that is asked for."},
	{"guarantee_conflict", 409, 4, "new payment", "A guarantee with this request id exists and is not the same.", notCharged, "Use a new request id for a new payment."},
	{"certificate_invalid", 503, 4, "same payment", "The clearing house's certificate does not verify.", "Not served, not charged.", "The seller checks its clearing house; try again later."},
	{"certificate_mismatch", 503, 4, "same payment", "The clearing house certified something else.", "Not served, not charged.", "The seller checks its clearing house; try again later."},
	{"house_unreachable", 503, 4, "same payment", "The clearing house does not answer in time.", "Not served, not charged.", "Retry with the same payment."},
	{"house_refused", 503, 4, "same payment", "The clearing house answered with an error of its own.", "Not served, not charged.", "Retry with the same payment, or ask its operator."},
	{"facilitator_unreachable", 503, 4, "same payment", "The service that checks payments on the chain does not answer.", "Not served, not charged.", "Retry with the same payment."},
	{"facilitator_fault", 502, 4, "same payment", "The service that checks payments on the chain turned the request away, or answered nonsense.", "Not served, not charged.", "The seller looks at its facilitator's address and key; retry with the same payment."},
	{"upstream_unreachable", 502, 1, "new payment", "The server behind the gate does not answer.", notCharged, "Start it, or pass --upstream."},
	{"not_charged", 200, 0, "never", "The seller served the request and let the charge go.", notCharged, "Nothing to do."},
	{"buyer_gone", 499, 1, "new payment", "The buyer left before the work was done.", notCharged, "Ask again with a new payment, and wait longer."},
	{"interrupted", 503, 1, "new payment", "The seller stopped in the middle of the work.", notCharged, "Ask again with a new payment."},
	{"expired", 402, 4, "new payment", "The payment was reserved and never certified.", notCharged, "Ask again with a new payment."},
	{"not_signed", 402, 3, "new payment", "The payment was given up before it was signed.", notSigned, "Ask again."},
	{"handler_failed", 500, 1, "new payment", "The seller's own code failed.", notCharged, "Ask again with a new payment."},
	{"answer_too_large", 502, 4, "after", "The answer is larger than what a seller holds back until its payment has moved.", notCharged, "Ask for less, or pay by another way; the seller raises its limit, or charges before work."},
	{"job_closed", 409, 1, "never", "The job is charged or let go already, or the purchase is none.", "It stays as it is.", "Look at what it came to; a charge is given back with farthing refund."},
	{"refund_refused", 409, 1, "after", "There is nothing that could be given back so.", "Nothing was given back.", "The message says why; --as-credit keeps it for the buyer's next purchase."},
	{"refund_exists", 409, 1, "never", "The purchase has a refund already, and another one than this.", "Nothing more was given back.", "A purchase is refunded once."},
	{"meter_missing", 502, 1, "new payment", "The answer does not say how much was used.", notCharged, "The seller mends the route's count."},
	{"route_unlisted", 404, 4, "never", "The gate does not sell this path.", notCharged, "Ask for a path that it lists."},
	{"path_ambiguous", 400, 4, "never", "The path can be read in two ways.", notCharged, "Send it without //, dot segments and encoded slashes."},
	{"book_unavailable", 503, 1, "same payment", "The seller cannot write down what it sells.", "Not served, not charged.", "Retry with the same payment."},
	{"settlement_pending", 503, 5, "same payment", "Whether the payment counts is not known yet.", "It may still be charged; it cannot be charged twice.", "farthing get --resume ID; do not pay again."},

	{"note_invalid", 400, 1, "never", "The note's signature cannot be read, or it names no guarantee.", "The guarantee stays as it was.", "Sign it with the payee's key, for a guarantee of this clearing house."},
	{"note_signer", 403, 1, "after", "The note is signed by a key that the guarantee's payee has not named, or has removed.", "The guarantee stays as it was.", "farthing signer add KEY, with the payee's key."},
	{"note_pledged", 409, 1, "never", "The note would let go of a claim that backs a refund of the payee's.", "The guarantee stays as it was.", "Refund with a payment the other way."},
	{"note_too_late", 409, 1, "never", "The guarantee's cycle has passed its cutoff.", "The guarantee stays as it was.", "Refund with a payment the other way."},
	{"note_not_lower", 409, 1, "never", "The note does not lower what is payable.", "The guarantee stays as it was.", "Amounts can only be lowered."},
	{"cycle_unknown", 404, 1, "never", "There is no such cycle.", notCharged, "farthing cycle lists them."},
	{"position_unknown", 404, 1, "never", "The address has no position in this cycle.", notCharged, "Check the address and the cycle."},
	{"action_wrong", 400, 1, "never", "The position is not one that this action is for, or the cycle is not that far.", notCharged, "Debtors pay, creditors collect; farthing cycle shows when."},

	{"budget_exceeded", 402, 3, "after", "Your own limit does not allow it.", notSigned, "Raise --max or the budget, or use the seller's cheaper route."},
	{"seller_not_allowed", 402, 3, "after", "Your own list of sellers does not name this one.", notSigned, "Add it to the list."},
	{"payee_changed", 402, 3, "after", "The seller asks to be paid at another address than before.", notSigned, "Ask the seller; then --trust-payee ADDRESS."},
	{"no_common_option", 402, 4, "after", "None of the seller's ways to pay is one of yours.", notSigned, "Fund the network it takes, or ask the seller to accept yours."},
	{"bundle_disputed", 402, 4, "after", "By the buyer's count a bundle that was paid for has something left, and the seller does not honour it.", "Nothing was paid for this request; the bundle was paid when it was bought.", "Ask the seller, showing the bundle's purchase; or buy anew: farthing get --rebuy."},
	{"id_reused", 409, 2, "never", "A payment of this name was made before, and it was another one.", notSigned, "Use another --id for another payment."},
	{"seller_unreachable", 503, 1, "same payment", "The seller does not answer.", notSigned, "Check the address and try again."},
	{"seller_error", 502, 1, "never", "The seller answered with an error of its own.", notCharged, "See what it says."},
	{"offer_invalid", 402, 4, "never", "The seller's 402 contradicts itself or the request.", notSigned, "Tell the seller."},
	{"payment_refused", 402, 4, "never", "The seller refused a payment and gave no reason that we know.", "The seller says nothing was charged.", "Ask the seller; the purchase is in the journal."},
	{"receipt_invalid", 502, 1, "never", "The seller's signed receipt does not hold.", "Nothing changes: a receipt is the seller's word only.", "Tell the seller, and keep the answer."},
	{"journal_unusable", 500, 1, "after", "The journal of purchases cannot be read or written.", notSigned, "Check the file and its permissions."},

	{"payment_id_conflict", 409, 4, "new payment", "The payment's id stands for another payment already.", "Not charged again.", "Use a new payment id, or send the first payment again."},
	{"payment_id_invalid", 400, 4, "new payment", "The seller asks for a payment id, and the payment has none that can be used.", notCharged, "Send 16 to 128 letters, digits, _ and - as info.id of payment-identifier."},
	{"sign_in_invalid", 401, 4, "after", "The sign-in is not what this seller's 402 describes, or not signed by its account.", notCharged, "Sign what the 402's sign-in-with-x says, or pay."},
	{"sign_in_expired", 401, 4, "after", "The sign-in's time is over, or has not begun.", notCharged, "Sign in again; set the clock (NTP) if this repeats."},
	{"sign_in_used", 401, 4, "after", "The sign-in was used before.", notCharged, "Sign the nonce of a new 402."},

	{"rate_limited", 429, 4, "same payment", "There are more requests than are taken from one place.", notCharged, "Wait as long as Retry-After says."},
	{"api_key_invalid", 401, 1, "after", "This is for who has a key, and what was sent is none.", notCharged, "Send the key that its operator gave in X-API-Key."},
	{"asset_not_served", 402, 4, "new payment", "The facilitator does not settle this token.", notCharged, "Pay in a token that it lists."},
	{"call_not_served", 402, 4, "new payment", "The facilitator does not send this kind of call.", notCharged, "Pay in a way that it lists."},
	{"gas_too_high", 402, 4, "after", "Settling the payment would take more gas than the facilitator spends on one.", notCharged, "Pay from a plain account, or in another token."},
	{"gas_budget_exceeded", 402, 4, "after", "The payer's share of the facilitator's gas for today is spent.", notCharged, "Wait until tomorrow, or pay in a way that needs no transfer."},
	{"settlement_too_late", 402, 4, "new payment", "The payment would expire before it could be settled.", notCharged, "Sign a new payment that is valid for longer."},
	{"settlement_busy", 503, 4, "same payment", "The facilitator has as many open transactions as it may.", "Not served, not charged.", "Retry with the same payment."},

	{"webhook_url_invalid", 400, 1, "after", "No webhook can be sent to that URL.", notCharged, "Give an https:// URL of a public host, without a password or a fragment."},
	{"webhook_limit", 409, 1, "after", "There are as many webhook endpoints as one owner may have.", notCharged, "Delete one, or change its URL."},
	{"webhook_disabled", 409, 1, "after", "The webhook endpoint is disabled, so nothing is sent to it.", notCharged, "farthing webhook enable ID."},

	{"malformed_request", 400, 1, "never", "The request cannot be read.", notCharged, "Mend what the message names."},
	{"body_too_large", 413, 1, "never", "The request is larger than is taken.", notCharged, "Send less at once."},
	{"method_not_allowed", 405, 1, "never", "The path is there, but not with this method.", notCharged, "See the Allow header."},
	{"not_found", 404, 1, "never", "There is no such thing here.", notCharged, "Check the path."},
	{"unauthorized", 401, 1, "after", "This needs a login.", notCharged, "Sign in at /auth/nonce and /auth/verify; farthing's own verbs do it with --key."},
	{"login_invalid", 401, 1, "after", "The sign-in message is not one that this clearing house asked for, or its time is over.", notSigned, "Ask /auth/nonce again and sign what it says; set the clock (NTP) if this repeats."},
	{"login_signature_invalid", 400, 1, "after", "The sign-in message is not signed by its account.", notSigned, "Sign the message as text (EIP-191) with the account's key."},
	{"token_invalid", 401, 1, "after", "The access or refresh token is not valid, or no longer.", notCharged, "Refresh it, or sign in again."},
	{"forbidden", 403, 1, "after", "Who is logged in may not do this.", notCharged, "Sign in as the account that it is about, or ask the operator for the right."},
	{"suspended", 403, 4, "after", "The operator has suspended the account: it can neither promise nor be promised anything.", notCharged, "Ask the operator of the clearing house."},
	{"not_member", 403, 4, "after", "The clearing house serves members only, and the account is none.", notCharged, "Ask the operator: farthing member add."},
	{"house_busy", 503, 4, "same payment", "The clearing house has as much work as it takes at once.", "Not served, not charged.", "Retry with the same payment, after as long as Retry-After says."},
	{"house_behind", 503, 4, "same payment", "The clearing house does not know what has happened on its chain lately, and promises nothing until it does.", "Not served, not charged.", "Retry with the same payment; its operator reads in docs/operating.md what to look at."},
	{"internal", 500, 1, "same payment", "Something failed that should not have.", "What was durable stays so; asking again with the same payment cannot pay twice.", "Give the reference to the operator."},
}

// All returns the table, in its own order.
func All() []Reason { return slices.Concat(reasons, protocolReasons) }

var byCode = func() map[string]Reason {
	m := make(map[string]Reason)
	for _, r := range All() {
		m[r.Code] = r
	}
	return m
}()

// Lookup returns a code's row.
func Lookup(code string) (Reason, bool) {
	r, ok := byCode[code]
	return r, ok
}

// Nearest returns the code that was probably meant, or "".
func Nearest(code string) string {
	all := All()
	codes := make([]string, len(all))
	for i, r := range all {
		codes[i] = r.Code
	}
	if near := network.Nearest(code, codes); near != "" {
		return near
	}
	// Nobody remembers a whole code: the first that has the word asked for.
	for _, c := range codes {
		if len(code) >= 4 && strings.Contains(c, strings.ToLower(code)) {
			return c
		}
	}
	return ""
}
