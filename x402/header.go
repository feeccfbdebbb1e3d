package x402

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/textproto"
	"regexp"
	"strings"
)

// Names of the headers of both versions.
const (
	HeaderRequired    = "PAYMENT-REQUIRED"   // 402, version 2
	HeaderSignature   = "PAYMENT-SIGNATURE"  // request, version 2
	HeaderPayment     = "X-PAYMENT"          // request, version 1
	HeaderResponse    = "PAYMENT-RESPONSE"   // receipt, version 2
	HeaderXResponse   = "X-PAYMENT-RESPONSE" // receipt, version 1
	HeaderBytesMax    = 8 << 10              // a payment header may be this long; proxies refuse longer ones anyway
	RequiredBodyMax   = 1 << 20              // a 402's body is read this far
	requiredHeaderMax = 64 << 10
)

var standardBase64 = regexp.MustCompile(`^[A-Za-z0-9+/]*={0,2}$`)

// EncodeHeader returns v as compact JSON in standard base64.
func EncodeHeader(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(b), nil
}

// DecodeHeader reads what EncodeHeader writes, strictly: base64url, blanks and repeated members are refused.
func DecodeHeader(text string, v any) error {
	if !standardBase64.MatchString(text) {
		return Errorf("payment_undecodable", "header is not standard base64")
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return Errorf("payment_undecodable", "header is not standard base64")
	}
	if err := decodeStrict(b, v); err != nil {
		return Errorf("payment_undecodable", "header's JSON: %v", err)
	}
	return nil
}

// ReadPayment returns the request's payment, or nil if it carries none. Errors are *Error with the codes
// payment_header_duplicate, payment_header_oversized and payment_undecodable, checked in this order.
func ReadPayment(h http.Header) (*Payment, error) {
	values := append(headerValues(h, HeaderSignature), headerValues(h, HeaderPayment)...)
	switch {
	case len(values) == 0:
		return nil, nil
	case len(values) > 1:
		return nil, Errorf("payment_header_duplicate", "%d payment headers", len(values))
	case len(values[0]) > HeaderBytesMax:
		return nil, Errorf("payment_header_oversized", "payment header of %d bytes, at most %d are read", len(values[0]), HeaderBytesMax)
	}
	var p Payment
	if err := DecodeHeader(values[0], &p); err != nil {
		return nil, err
	}
	return &p, nil
}

func headerValues(h http.Header, name string) []string {
	return h[textproto.CanonicalMIMEHeaderKey(name)]
}

// StripPayment removes every header of the payment protocol from a request or response.
func StripPayment(h http.Header) {
	for name := range h {
		upper := strings.ToUpper(name)
		if strings.HasPrefix(upper, "PAYMENT-") || strings.HasPrefix(upper, "X-PAYMENT") {
			delete(h, name)
		}
	}
}

// SetReceipt puts the receipt into both headers that clients look for.
func SetReceipt(h http.Header, r SettleResponse) error {
	text, err := EncodeHeader(r)
	if err != nil {
		return err
	}
	h.Set(HeaderResponse, text)
	h.Set(HeaderXResponse, text)
	return nil
}

// ReadReceipt returns the receipt of a response, and false if there is none that can be read. Trailers count too: an
// answer that is charged by what was streamed can only tell at its end.
func ReadReceipt(resp *http.Response) (SettleResponse, bool) {
	for _, h := range []http.Header{resp.Header, resp.Trailer} {
		for _, name := range []string{HeaderResponse, HeaderXResponse} {
			if text := h.Get(name); text != "" && len(text) <= requiredHeaderMax {
				var r SettleResponse
				if DecodeHeader(text, &r) == nil {
					return r, true
				}
			}
		}
	}
	return SettleResponse{}, false
}
