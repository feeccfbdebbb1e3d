package x402

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Facilitator verifies and settles payments for sellers. A refusal is an answer with a reason, not an error; an error
// means that no answer was had, and the payment's state is not known.
type Facilitator interface {
	Verify(ctx context.Context, p Payment, r Requirements) (VerifyResponse, error)
	Settle(ctx context.Context, p Payment, r Requirements) (SettleResponse, error)
	Supported(ctx context.Context) (Supported, error)
}

// Client speaks to a facilitator over HTTP. It is safe for concurrent use.
type Client struct {
	Base   string       // URL, may have a path
	HTTP   *http.Client // nil: one with a timeout of 90 s, which is what settling on a chain may take
	Header http.Header  // sent with every call, for an API key
}

var defaultHTTP = &http.Client{Timeout: 90 * time.Second}

// Verify implements [Facilitator].
func (c *Client) Verify(ctx context.Context, p Payment, r Requirements) (v VerifyResponse, err error) {
	err = c.call(ctx, http.MethodPost, "/verify", p, r, &v, "isValid")
	return v, err
}

// Settle implements [Facilitator].
func (c *Client) Settle(ctx context.Context, p Payment, r Requirements) (s SettleResponse, err error) {
	err = c.call(ctx, http.MethodPost, "/settle", p, r, &s, "success")
	return s, err
}

// Supported implements [Facilitator].
func (c *Client) Supported(ctx context.Context) (s Supported, err error) {
	err = c.call(ctx, http.MethodGet, "/supported", Payment{}, Requirements{}, &s, "kinds")
	return s, err
}

// call makes one call. An answer outside 2xx that has the member which every answer of its kind has is an answer too.
func (c *Client) call(ctx context.Context, method, path string, p Payment, r Requirements, answer any, member string) error {
	var body io.Reader
	if method == http.MethodPost {
		b, err := json.Marshal(map[string]any{"x402Version": p.Version, "paymentPayload": p, "paymentRequirements": r})
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(c.Base, "/")+path, body)
	if err != nil {
		return err
	}
	for name, values := range c.Header {
		req.Header[name] = values
	}
	req.Header.Set("Content-Type", "application/json")
	client := c.HTTP
	if client == nil {
		client = defaultHTTP
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("facilitator %s: %w", path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, RequiredBodyMax))
	if err != nil {
		return fmt.Errorf("facilitator %s: %w", path, err)
	}
	var members map[string]json.RawMessage
	if err := decodeStrict(text, &members); err != nil || members[member] == nil {
		return fmt.Errorf("facilitator %s: status %d without %q", path, resp.StatusCode, member)
	}
	return json.Unmarshal(text, answer)
}
