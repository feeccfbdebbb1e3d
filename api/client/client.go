package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/farthing402/farthing/x402"
)

// DefaultTimeout bounds one call. A certificate takes milliseconds; whoever waits longer keeps a buyer waiting who could
// try again with the same payment.
const DefaultTimeout = 2 * time.Second

// answerBytesMax bounds what is read of an answer. The largest one, 256 certificates with their proofs, is below 1 MiB.
const answerBytesMax = 4 << 20

// redirectsMax is how many redirects are followed, all within the clearing house's own host.
const redirectsMax = 3

// Client is a connection to one clearing house.
type Client struct {
	base    string // without a trailing slash
	host    string // for messages: scheme and host
	http    *http.Client
	timeout time.Duration
	join    joiner
	session *session // nil without a key

	mu     sync.Mutex
	params *Params // guarded by mu; nil until read once
}

// Option changes how a [Client] works.
type Option func(*Client)

// WithHTTPClient sends requests through another client, of which transport and cookie jar are used; redirects and time
// limits stay this package's.
func WithHTTPClient(h *http.Client) Option {
	return func(c *Client) { c.http = &http.Client{Transport: h.Transport, Jar: h.Jar} }
}

// WithTimeout bounds each call; see [DefaultTimeout].
func WithTimeout(d time.Duration) Option { return func(c *Client) { c.timeout = d } }

// New makes a client of the clearing house at a base URL, http or https. Where several nodes serve it without a balancer
// before them, their URLs are given separated by commas, the first to be tried first; they must have the same path. It opens
// no connection yet.
func New(baseURL string, opts ...Option) (*Client, error) {
	var nodes []*url.URL
	for text := range strings.SplitSeq(baseURL, ",") {
		u, err := url.Parse(strings.TrimSpace(text))
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
			len(nodes) > 0 && strings.TrimRight(u.Path, "/") != strings.TrimRight(nodes[0].Path, "/") {
			return nil, &x402.Error{Code: "config_invalid", Message: fmt.Sprintf("clearing house %q: not an http or https address", text)}
		}
		nodes = append(nodes, u)
	}
	u := nodes[0]
	c := &Client{
		base: strings.TrimRight(u.String(), "/"), host: u.Scheme + "://" + u.Host,
		http: &http.Client{}, timeout: DefaultTimeout,
	}
	for _, o := range opts {
		o(c)
	}
	if len(nodes) > 1 {
		inner := c.http.Transport
		if inner == nil {
			inner = http.DefaultTransport
		}
		c.http.Transport = &failover{inner: inner, nodes: nodes}
	}
	c.http.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if req.URL.Scheme != u.Scheme || !strings.EqualFold(req.URL.Host, u.Host) {
			return fmt.Errorf("redirected to another host, %s", req.URL.Host)
		}
		if len(via) > redirectsMax {
			return errors.New("redirected too often")
		}
		return nil
	}
	c.join.post = c.postMany
	return c, nil
}

// URL returns the address that the client was made with.
func (c *Client) URL() string { return c.base }

// get reads a JSON answer into out. path begins with a slash and is escaped already.
func (c *Client) get(ctx context.Context, path string, out any) error {
	return c.do(ctx, http.MethodGet, path, "", nil, out)
}

// do sends a request, with an access token unless it is empty.
func (c *Client) do(ctx context.Context, method, path, token string, body, out any) error {
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return badRequest(err)
		}
	}
	answer, err := c.answer(ctx, method, path, token, raw)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return c.unreachable(ctx, fmt.Errorf("answer cannot be read: %w", err))
	}
	return nil
}

// badRequest is the error of what cannot be written as JSON.
func badRequest(err error) error {
	return &x402.Error{Code: "malformed_request", Message: fmt.Sprintf("clearing house: %v", err)}
}

// answer returns what was answered with success; a refusal is an error.
func (c *Client) answer(ctx context.Context, method, path, token string, body []byte) ([]byte, error) {
	status, wait, answer, err := c.send(ctx, method, path, token, body)
	if err == nil && status/100 != 2 {
		err = c.refusal(ctx, status, wait, answer)
	}
	return answer, err
}

// send returns whatever was answered, refusals included, and how long to wait if it says so. A request without a body has a nil
// one. One that the clearing house has no room for is sent again when it asks for that, within the time limit: asking twice is
// asking once, in everything that is asked here.
func (c *Client) send(parent context.Context, method, path, token string, body []byte) (status int, wait time.Duration, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(parent, c.timeout)
	defer cancel()
	for {
		if status, wait, answer, err = c.once(ctx, parent, method, path, token, body); err != nil || wait == 0 {
			return status, wait, answer, err
		}
		if ends, _ := ctx.Deadline(); time.Until(ends) <= wait {
			return status, wait, answer, nil
		}
		pause := time.NewTimer(wait)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return 0, 0, nil, c.unreachable(parent, ctx.Err())
		}
	}
}

// retryAfter is how long an answer asks to wait before the request is sent again, 0 if it does not.
func retryAfter(resp *http.Response) time.Duration {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return 0
	}
	seconds, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 31)
	if err != nil {
		return 0
	}
	return max(time.Duration(seconds)*time.Second, minWait)
}

// minWait keeps a clearing house that says 0 from being asked without a pause.
const minWait = 100 * time.Millisecond

func (c *Client) once(ctx, parent context.Context, method, path, token string, body []byte) (status int, wait time.Duration, answer []byte, err error) {
	var in io.Reader
	if body != nil {
		in = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, in)
	if err != nil {
		return 0, 0, nil, &x402.Error{Code: "config_invalid", Message: fmt.Sprintf("clearing house: %v", err)}
	}
	req.Header.Set("Accept", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
		// Asking twice is asking once, so a request on a connection that died idle may be sent again. The empty list says
		// so to net/http and puts nothing on the wire.
		if !strings.HasPrefix(path, "/auth/") {
			req.Header["Idempotency-Key"] = []string{}
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, 0, nil, c.unreachable(parent, err)
	}
	defer resp.Body.Close()
	known := min(max(0, resp.ContentLength), answerBytesMax) // an answer of known length is read without growing
	out := bytes.NewBuffer(make([]byte, 0, known+bytes.MinRead))
	_, err = out.ReadFrom(io.LimitReader(resp.Body, answerBytesMax+1))
	answer = out.Bytes()
	if err == nil && len(answer) > answerBytesMax {
		err = errors.New("answer is too large")
	}
	if err != nil {
		return 0, 0, nil, c.unreachable(parent, err)
	}
	return resp.StatusCode, retryAfter(resp), answer, nil
}
