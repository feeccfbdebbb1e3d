package x402

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Facilitator verifies and settles payments for sellers. A refusal is an answer with a reason, not an error; an error
// means that no answer was had. After one of Settle's with the code settlement_pending the money may have moved: the
// same call again finds out and cannot pay twice.
type Facilitator interface {
	Verify(ctx context.Context, p Payment, r Requirements) (VerifyResponse, error)
	Settle(ctx context.Context, p Payment, r Requirements) (SettleResponse, error)
	Supported(ctx context.Context) (Supported, error)
}

// FacilitatorRequest is the body of a call to /verify and /settle. Its version and dialect are the payment's.
type FacilitatorRequest struct {
	Payment      Payment
	Requirements Requirements
}

type facilitatorRequest struct {
	numbers
	PaymentPayload      json.RawMessage `json:"paymentPayload"`
	PaymentRequirements json.RawMessage `json:"paymentRequirements"`
}

// MarshalJSON writes the request in the payment's version and dialect.
func (q FacilitatorRequest) MarshalJSON() ([]byte, error) {
	payload, err := encodePlain(q.Payment)
	if err != nil {
		return nil, err
	}
	var requirements any = q.Requirements
	if q.Payment.Version == 1 {
		var of Resource
		if q.Payment.Resource != nil {
			of = *q.Payment.Resource
		}
		requirements = q.Requirements.v1(of, nil)
	}
	raw, err := encodePlain(requirements)
	if err != nil {
		return nil, err
	}
	return encodePlain(facilitatorRequest{q.Payment.Dialect.numbers(q.Payment.Version), payload, raw})
}

// UnmarshalJSON reads a request of either version and dialect; see [Decode]. The payment tells which: the body's own number
// may be missing, but not unknown. Errors are *Error; the codes are those of [ReadFacilitatorRequest].
func (q *FacilitatorRequest) UnmarshalJSON(b []byte) error {
	var w facilitatorRequest
	err := strict(b)
	if err == nil {
		b = bytes.Clone(b)
		err = fill(b, field{"x402Version", &w.X402Version}, field{"t402Version", &w.T402Version},
			field{"paymentPayload", &w.PaymentPayload}, field{"paymentRequirements", &w.PaymentRequirements})
	}
	if err != nil {
		return Errorf("malformed_request", "request: %w", err)
	}
	if isNull(w.PaymentPayload) {
		return Errorf("malformed_request", "paymentPayload is missing")
	}
	if isNull(w.PaymentRequirements) {
		return Errorf("malformed_request", "paymentRequirements are missing")
	}
	if w.X402Version != nil || w.T402Version != nil {
		if _, _, err := w.numbers.read(); err != nil {
			return invalid(err, "request")
		}
	}
	var p Payment
	if err := p.unmarshal(w.PaymentPayload); err != nil {
		return invalid(err, "paymentPayload")
	}
	var r Requirements
	if err := r.unmarshal(w.PaymentRequirements); err != nil {
		return Errorf("invalid_payment_requirements", "paymentRequirements: %w", err)
	}
	if r.Scheme == "" || r.Network == "" || !isAmount(r.Amount) {
		return Errorf("invalid_payment_requirements", "paymentRequirements have no scheme, network or amount")
	}
	*q = FacilitatorRequest{p, r}
	return nil
}

// invalid gives an error of a payment's form its code.
func invalid(err error, what string) *Error {
	code := "invalid_payload"
	if v := (*versionError)(nil); errors.As(err, &v) {
		code = v.code()
	}
	return Errorf(code, "%s: %w", what, err)
}

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// isAmount reports whether s is a decimal number of smallest units: digits and nothing else.
func isAmount(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// FacilitatorBytesMax is how much of the body of a call to /verify or /settle is read. A payment that came in a header is
// at most 6 KiB; contract wallets' signatures and sponsored approvals are longer.
const FacilitatorBytesMax = 64 << 10

// ReadFacilitatorRequest reads the body of a call to /verify or /settle, in either version and dialect. Errors come in this
// order: body_too_large and malformed_request, for which there is nothing to say but a status; then invalid_x402_version or
// invalid_t402_version, invalid_payload and invalid_payment_requirements, which a facilitator also answers as reasons.
func ReadFacilitatorRequest(body io.Reader) (q FacilitatorRequest, refusal *Error) {
	b, err := io.ReadAll(io.LimitReader(body, FacilitatorBytesMax+1))
	switch {
	case err != nil:
		return q, Errorf("malformed_request", "request: %w", err)
	case len(b) > FacilitatorBytesMax:
		return q, Errorf("body_too_large", "request is larger than %d bytes", FacilitatorBytesMax)
	}
	if err := q.UnmarshalJSON(b); err != nil && !errors.As(err, &refusal) {
		refusal = Errorf("malformed_request", "request: %w", err) // cannot be: all of them are *Error
	}
	return q, refusal
}

// VerifyAnswer returns the answer to /verify as clients of the request's version and dialect know it: see [ReasonFor]. A
// reason that has to be given under another name stays in the message, if there is no other.
func (q FacilitatorRequest) VerifyAnswer(v VerifyResponse) VerifyResponse {
	v.InvalidReason, v.InvalidMessage = q.reason(v.InvalidReason, v.InvalidMessage)
	return v
}

// SettleAnswer returns the answer to /settle as clients of the request's version and dialect know it: see [ReasonFor], and
// in version 1 with the network's short name. A reason that has to be given under another name stays in the message, if
// there is no other.
func (q FacilitatorRequest) SettleAnswer(s SettleResponse) SettleResponse {
	s.ErrorReason, s.ErrorMessage = q.reason(s.ErrorReason, s.ErrorMessage)
	if q.Payment.Version == 1 {
		s.Network = nameV1(s.Network)
	}
	return s
}

func (q FacilitatorRequest) reason(code, message string) (string, string) {
	given := ReasonFor(q.Payment.Dialect, q.Payment.Version, code)
	if given != code && message == "" {
		message = code
	}
	return given, message
}

// DefaultTimeout bounds one call to a facilitator: settling waits for a chain.
const DefaultTimeout = 90 * time.Second

// Client speaks to a facilitator over HTTP. It is safe for concurrent use; its fields are not changed after first use.
type Client struct {
	Base    string        // URL, may have a path
	HTTP    *http.Client  // nil: http.DefaultTransport; its redirect rule is replaced by this package's
	Header  http.Header   // sent with every call, for an API key; never to another host
	Timeout time.Duration // of one call; 0: DefaultTimeout
	Dialect Dialect       // what the facilitator speaks, whatever the buyer spoke: see [Supported.Dialect]

	wait func(context.Context, time.Duration) error // between tries of Supported; nil: by the clock
}

var _ Facilitator = (*Client)(nil)

// Verify implements [Facilitator]. Errors have the codes facilitator_unreachable and facilitator_fault; nothing moved.
func (c *Client) Verify(ctx context.Context, p Payment, r Requirements) (v VerifyResponse, err error) {
	_, err = c.call(ctx, "verify", c.request(p, r), "isValid", &v)
	return v, err
}

// Settle implements [Facilitator]. Errors have the code facilitator_unreachable if nothing was sent, facilitator_fault
// if the request was turned away, and settlement_pending if it may have been acted on.
func (c *Client) Settle(ctx context.Context, p Payment, r Requirements) (s SettleResponse, err error) {
	_, err = c.call(ctx, "settle", c.request(p, r), "success", &s)
	if s.Network != "" {
		s.Network, _ = canonicalNetwork(s.Network)
	}
	return s, err
}

// request is the body of a call: the dialect is no part of what was signed, so each facilitator is spoken to in its own.
func (c *Client) request(p Payment, r Requirements) *FacilitatorRequest {
	p.Dialect = c.Dialect
	return &FacilitatorRequest{p, r}
}

// supportedTries is how often Supported asks a facilitator that is busy (429).
const supportedTries = 3

// retryAfterMax caps the pause that a facilitator may ask for.
const retryAfterMax = 30 * time.Second

// Supported implements [Facilitator]. A facilitator that says it is busy is asked again, at most three times in all.
func (c *Client) Supported(ctx context.Context) (s Supported, err error) {
	wait := c.wait
	if wait == nil {
		wait = sleep
	}
	for try := range supportedTries {
		var busy *time.Duration
		if busy, err = c.call(ctx, "supported", nil, "kinds", &s); busy == nil || try == supportedTries-1 {
			break
		}
		pause := time.Second << try
		if *busy > 0 {
			pause = *busy
		}
		if stopped := wait(ctx, pause); stopped != nil {
			break
		}
	}
	return s, err
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// call makes one call. An answer outside 2xx that has the member which every answer of its kind has is an answer too. If
// the facilitator is busy, busy is the pause it asks for, 0 for none.
func (c *Client) call(ctx context.Context, verb string, body *FacilitatorRequest, member string, answer any) (busy *time.Duration, err error) {
	base, err := url.Parse(strings.TrimRight(c.Base, "/"))
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, Errorf("config_invalid", "facilitator %q: not an http or https address", c.Base)
	}
	fault := func(code, format string, args ...any) error {
		return Errorf(code, "facilitator %s: %s: %w", base.Host, verb, fmt.Errorf(format, args...))
	}
	unsure := "facilitator_fault" // the code once the request may have been acted on
	if verb == "settle" {
		unsure = "settlement_pending"
	}

	timeout := c.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base.String()+"/"+verb, nil)
	if body != nil && err == nil {
		raw, encodeErr := json.Marshal(body)
		if encodeErr != nil {
			return nil, fault("malformed_request", "%w", encodeErr)
		}
		req, err = http.NewRequestWithContext(ctx, http.MethodPost, base.String()+"/"+verb, bytes.NewReader(raw))
	}
	if err != nil {
		return nil, fault("config_invalid", "%w", err)
	}
	for name, values := range c.Header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}

	resp, err := c.client(base).Do(req)
	if err != nil {
		if at := (*url.Error)(nil); errors.As(err, &at) {
			err = at.Err // without the address, in which a key may stand: buyers are told too
		}
		var about *url.Error
		if errors.As(err, &about) {
			err = about.Err // the address is said already
		}
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" || verb != "settle" {
			return nil, fault("facilitator_unreachable", "%w", err)
		}
		return nil, fault(unsure, "%w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, answerBytesMax+1))
	if err != nil {
		return nil, fault(unsure, "%w", err)
	}
	if len(text) > answerBytesMax {
		return nil, fault(unsure, "answer is larger than %d bytes", answerBytesMax)
	}
	var members map[string]json.RawMessage
	err = Decode(text, &members)
	if said := members[member]; err == nil && said != nil && string(said) != "null" {
		if err := json.Unmarshal(text, answer); err != nil {
			return nil, fault(unsure, "answer cannot be read: %w", err)
		}
		return nil, nil
	}
	switch {
	case resp.StatusCode == http.StatusTooManyRequests:
		pause := retryAfter(resp.Header)
		return &pause, fault("facilitator_fault", "is busy (429)")
	case turnedAway[resp.StatusCode]:
		return nil, fault("facilitator_fault", "turned away with status %d", resp.StatusCode)
	case resp.StatusCode/100 == 2:
		return nil, fault(unsure, "answer has no %q", member)
	}
	return nil, fault(unsure, "status %d", resp.StatusCode)
}

// turnedAway are the statuses of a request that was not acted on. Any other may come after the act, 409 and 500 included.
var turnedAway = map[int]bool{400: true, 401: true, 403: true, 404: true, 405: true, 411: true, 413: true, 415: true, 422: true, 431: true}

// client returns c.HTTP with redirects that keep what only the facilitator may see: the seller's headers stay on its
// host, and nothing goes from https to http.
func (c *Client) client(base *url.URL) *http.Client {
	var h http.Client
	if c.HTTP != nil {
		h = *c.HTTP
	}
	h.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		switch {
		case len(via) > 5:
			return errors.New("redirected too often")
		case base.Scheme == "https" && req.URL.Scheme != "https":
			return errors.New("redirected to an address without TLS")
		case !strings.EqualFold(req.URL.Host, base.Host):
			for name := range c.Header {
				req.Header.Del(name)
			}
		}
		return nil
	}
	return &h
}

// retryAfter returns the pause that an answer asks for, 0 if it does not, and never more than retryAfterMax.
func retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, retryAfterMax)
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, min(time.Until(at), retryAfterMax))
	}
	return 0
}
