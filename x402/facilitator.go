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

// FacilitatorRequest is the body of a call to /verify and /settle.
type FacilitatorRequest struct {
	Payment      Payment
	Requirements Requirements
}

type facilitatorRequest struct {
	X402Version         int             `json:"x402Version"`
	PaymentPayload      *Payment        `json:"paymentPayload"`
	PaymentRequirements json.RawMessage `json:"paymentRequirements"`
}

// MarshalJSON writes the request in the payment's version.
func (q FacilitatorRequest) MarshalJSON() ([]byte, error) {
	var requirements any = q.Requirements
	if q.Payment.Version == 1 {
		var of Resource
		if q.Payment.Resource != nil {
			of = *q.Payment.Resource
		}
		requirements = q.Requirements.v1(of, nil)
	}
	raw, err := json.Marshal(requirements)
	if err != nil {
		return nil, err
	}
	return json.Marshal(facilitatorRequest{q.Payment.Version, &q.Payment, raw})
}

// UnmarshalJSON reads a request of either version; see [Decode].
func (q *FacilitatorRequest) UnmarshalJSON(b []byte) error {
	var w facilitatorRequest
	if err := Decode(b, &w); err != nil {
		return err
	}
	if w.PaymentPayload == nil {
		return errors.New("paymentPayload is missing")
	}
	var r *Requirements
	if err := json.Unmarshal(w.PaymentRequirements, &r); err != nil {
		return fmt.Errorf("paymentRequirements: %w", err)
	}
	if r == nil || r.Scheme == "" || r.Network == "" {
		return errors.New("paymentRequirements are missing")
	}
	*q = FacilitatorRequest{*w.PaymentPayload, *r}
	return nil
}

// DefaultTimeout bounds one call to a facilitator: settling waits for a chain.
const DefaultTimeout = 90 * time.Second

// Client speaks to a facilitator over HTTP. It is safe for concurrent use; its fields are not changed after first use.
type Client struct {
	Base    string        // URL, may have a path
	HTTP    *http.Client  // nil: http.DefaultTransport; its redirect rule is replaced by this package's
	Header  http.Header   // sent with every call, for an API key; never to another host
	Timeout time.Duration // of one call; 0: DefaultTimeout

	wait func(context.Context, time.Duration) error // between tries of Supported; nil: by the clock
}

var _ Facilitator = (*Client)(nil)

// Verify implements [Facilitator]. Errors have the codes facilitator_unreachable and facilitator_fault; nothing moved.
func (c *Client) Verify(ctx context.Context, p Payment, r Requirements) (v VerifyResponse, err error) {
	_, err = c.call(ctx, "verify", &FacilitatorRequest{p, r}, "isValid", &v)
	return v, err
}

// Settle implements [Facilitator]. Errors have the code facilitator_unreachable if nothing was sent, facilitator_fault
// if the request was turned away, and settlement_pending if it may have been acted on.
func (c *Client) Settle(ctx context.Context, p Payment, r Requirements) (s SettleResponse, err error) {
	_, err = c.call(ctx, "settle", &FacilitatorRequest{p, r}, "success", &s)
	if s.Network != "" {
		s.Network, _ = canonicalNetwork(s.Network)
	}
	return s, err
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
