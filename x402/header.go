package x402

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
)

// Names of the headers of both versions.
const (
	HeaderRequired  = "PAYMENT-REQUIRED"   // 402, version 2
	HeaderSignature = "PAYMENT-SIGNATURE"  // request, version 2
	HeaderPayment   = "X-PAYMENT"          // request, version 1
	HeaderResponse  = "PAYMENT-RESPONSE"   // receipt, version 2
	HeaderXResponse = "X-PAYMENT-RESPONSE" // receipt, version 1
)

// Bounds of what is read.
const (
	HeaderBytesMax    = 8 << 10  // a payment header; proxies refuse longer ones anyway
	RequiredBodyMax   = 1 << 20  // a 402's body
	requiredHeaderMax = 64 << 10 // terms and receipts in headers
	answerBytesMax    = 1 << 20  // a facilitator's answer
)

// EncodeHeader returns v as compact ASCII JSON in standard base64.
func EncodeHeader(v any) (string, error) {
	b, err := compact(v)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(b), nil
}

// DecodeHeader reads what EncodeHeader writes, strictly: base64url, blanks, stray bits and repeated members are refused;
// padding may be left out. The error has the code payment_undecodable.
func DecodeHeader(text string, v any) error {
	b, err := decodeBase64(text)
	if err != nil {
		return err
	}
	if err := Decode(b, v); err != nil {
		return Errorf("payment_undecodable", "header's JSON: %w", err)
	}
	return nil
}

func decodeBase64(text string) ([]byte, error) {
	encoding := base64.StdEncoding
	if !strings.HasSuffix(text, "=") {
		encoding = base64.RawStdEncoding
	}
	b, err := encoding.Strict().DecodeString(text)
	// encoding/base64 skips line ends, which a header cannot hold and two readers would see differently.
	if err != nil || text == "" || strings.ContainsAny(text, "\r\n") {
		return nil, Errorf("payment_undecodable", "header is not standard base64")
	}
	return b, nil
}

// ReadPayment returns the request's payment, or nil if it carries none. Errors are *Error with the codes
// payment_header_duplicate, payment_header_oversized and payment_undecodable, checked in this order.
func ReadPayment(h http.Header) (*Payment, error) {
	values := slices.Concat(h.Values(HeaderSignature), h.Values(HeaderPayment))
	switch {
	case len(values) == 0:
		return nil, nil
	case len(values) > 1:
		return nil, Errorf("payment_header_duplicate", "%d payment headers", len(values))
	case len(values[0]) > HeaderBytesMax:
		return nil, Errorf("payment_header_oversized", "payment header of %d bytes, at most %d are read", len(values[0]), HeaderBytesMax)
	}
	b, err := decodeBase64(values[0])
	if err != nil {
		return nil, err
	}
	var p Payment
	if err := p.UnmarshalJSON(b); err != nil { // strict by itself
		return nil, Errorf("payment_undecodable", "header's JSON: %w", err)
	}
	p.Raw = values[0]
	return &p, nil
}

// StripPayment removes every header of the payment protocol from a request or response.
func StripPayment(h http.Header) {
	for name := range h {
		upper := strings.ToUpper(name)
		if strings.HasPrefix(upper, "PAYMENT-") || upper == HeaderPayment || strings.HasPrefix(upper, HeaderPayment+"-") {
			delete(h, name)
		}
	}
}

// SetReceipt puts the receipt into both headers that clients look for, with the network's version-1 name in version 1's,
// and the certificate under the name that 4Mica's sellers give it there.
func SetReceipt(h http.Header, r SettleResponse) error {
	text, err := EncodeHeader(r)
	if err != nil {
		return err
	}
	r.Network, r.Guarantee, r.Certificate = nameV1(r.Network), r.Certificate, nil
	textV1, err := EncodeHeader(r)
	if err != nil {
		return err
	}
	h.Set(HeaderResponse, text)
	h.Set(HeaderXResponse, textV1)
	return nil
}

// ReadReceipt returns the receipt of a response, and false if there is none that can be read. Trailers count too: an
// answer that is charged by what was streamed can only tell at its end. A receipt is what the seller says, no more.
func ReadReceipt(resp *http.Response) (SettleResponse, bool) {
	for _, h := range []http.Header{resp.Header, resp.Trailer} {
		for _, name := range []string{HeaderResponse, HeaderXResponse} {
			if text := h.Get(name); text != "" && len(text) <= requiredHeaderMax {
				var r SettleResponse
				if DecodeHeader(text, &r) == nil {
					r.Network, _ = canonicalNetwork(r.Network)
					if r.Certificate == nil {
						r.Certificate, r.Guarantee = r.Guarantee, nil
					}
					return r, true
				}
			}
		}
	}
	return SettleResponse{}, false
}
