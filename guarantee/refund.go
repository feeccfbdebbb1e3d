package guarantee

import "github.com/farthing402/farthing/evm"

// refundTag begins the request id of every guarantee that gives a purchase back, so that anyone who reads it knows: the
// clearing house backs it by claims where collateral is short, its payer's journal finds the purchase, and a contract that
// redeems it can tell.
const refundTag = "FARTHING_REFUND_"

// RefundID returns the request id of the guarantee, from payee to payer, that gives back the purchase with an id of 16
// bytes. There is one such id a purchase, so that it is given back once.
func RefundID(purchase [16]byte) (reqID evm.Hash) {
	copy(reqID[:], refundTag)
	copy(reqID[len(refundTag):], purchase[:])
	return reqID
}

// RefundOf returns the id of the purchase that a request id gives back, and whether it gives back one.
func RefundOf(reqID evm.Hash) (purchase [16]byte, ok bool) {
	if string(reqID[:len(refundTag)]) != refundTag {
		return purchase, false
	}
	return [16]byte(reqID[len(refundTag):]), true
}
