package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/farthing402/farthing/x402"
)

// refused makes the clearing house's own words into an error. A code that the table does not have (of a later version, or
// none, as 4Mica's core answers) becomes fallback. It returns nil for JSON that says no error.
func refused(raw []byte, fallback string) error {
	var e x402.Error
	if json.Unmarshal(raw, &e) != nil || e.Code == "" && e.Message == "" {
		return nil
	}
	if _, known := x402.Lookup(e.Code); !known {
		e.Code = fallback
	}
	e.Message, e.Hint = clip(e.Message), clip(e.Hint)
	return &e
}

// refusal is the error of an answer outside 2xx. wait is how long it asks to wait, 0 if it does not.
func (c *Client) refusal(ctx context.Context, status int, wait time.Duration, body []byte) error {
	if status/100 == 4 || status == http.StatusServiceUnavailable {
		var e *x402.Error
		if err := refused(body, codeOfStatus(status)); errors.As(err, &e) {
			if wait > 0 {
				if e.Details == nil {
					e.Details = make(map[string]string)
				}
				e.Details["retryAfter"] = strconv.Itoa(int(math.Ceil(wait.Seconds())))
			}
			return e
		}
	}
	return c.unreachable(ctx, fmt.Errorf("answered %d %s", status, http.StatusText(status)))
}

// codeOfStatus stands in for the code that a clearing house of another make does not send.
func codeOfStatus(status int) string {
	switch status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return "malformed_request"
	case http.StatusUnauthorized:
		return "unauthorized"
	case http.StatusForbidden:
		return "forbidden"
	case http.StatusTooManyRequests:
		return "rate_limited"
	case http.StatusServiceUnavailable:
		return "house_unreachable"
	case http.StatusNotFound:
		return "not_found"
	}
	return "house_refused"
}

// unreachable is the error of everything that is no answer. What was asked may have been done all the same. ctx is the
// caller's.
func (c *Client) unreachable(ctx context.Context, err error) error {
	var why string
	switch {
	case ctx.Err() != nil:
		why = "was not waited for"
	case errors.Is(err, context.DeadlineExceeded):
		why = fmt.Sprintf("timed out after %s", c.timeout)
	default:
		why = "did not answer: " + rootCause(err)
	}
	return &x402.Error{Code: "house_unreachable", Message: fmt.Sprintf("clearing house %s %s", c.host, why), Err: err}
}

// rootCause is the innermost of a chain of errors: the others repeat the address.
func rootCause(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return clip(err.Error())
		}
		err = inner
	}
}

// clip bounds text that somebody else wrote.
func clip(s string) string {
	if len(s) > 300 {
		return s[:300] + "…"
	}
	return s
}
