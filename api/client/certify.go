package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/internal/jsonobject"
)

const (
	// JoinMax is how many guarantees that are certified at the same time travel in one call.
	JoinMax = 64
	// joinedCalls is how many such calls may be under way. A second one leaves only when it is full: every call costs the
	// clearing house a signature and the payee its verification, together some two milliseconds, so that letting small ones
	// go side by side costs more than waiting for the one before (measured: twice the time a guarantee with two, thrice with four).
	joinedCalls = 4
	// CertifyMax is how many guarantees the clearing house takes in one call.
	CertifyMax = 256
)

// Result is what became of one guarantee among many.
type Result struct {
	Certificate guarantee.Certificate
	Replayed    bool // the clearing house had it before: this certificate is as good as the first
	Err         error
}

// Certify has one guarantee certified. Calls that happen together travel together, by a batch certificate each; nobody
// waits for others to come. The answer is not checked against s: see [guarantee.Verifier].
//
// If ctx ends first, the guarantee may have been certified all the same; asking again, with the same bytes, tells.
func (c *Client) Certify(ctx context.Context, s guarantee.Signed) (guarantee.Certificate, error) {
	r, err := c.join.do(ctx, s)
	if err != nil {
		return guarantee.Certificate{}, c.unreachable(ctx, err)
	}
	return r.Certificate, r.Err
}

// CertifyAlone has one guarantee certified by a signature of its own, which is what 4Mica's clients can verify. It costs the
// clearing house several times as much as [Client.Certify].
func (c *Client) CertifyAlone(ctx context.Context, s guarantee.Signed) (guarantee.Certificate, error) {
	var answer json.RawMessage
	if err := c.say(ctx, "/core/guarantees", s, &answer); err != nil {
		return guarantee.Certificate{}, err
	}
	r := c.result(ctx, answer)
	return r.Certificate, r.Err
}

// CertifyMany has guarantees certified in one call for each [CertifyMax] of them. Results are in the order of list; the
// error is nil unless a whole call failed, and then nothing is known about the guarantees without a result.
func (c *Client) CertifyMany(ctx context.Context, list []guarantee.Signed) ([]Result, error) {
	results := make([]Result, 0, len(list))
	for part := range slices.Chunk(list, CertifyMax) {
		some, err := c.postMany(ctx, part)
		if err != nil {
			return results, err
		}
		results = append(results, some...)
	}
	return results, nil
}

// signedBytes is about how much JSON a guarantee's request is.
const signedBytes = 640

// certifyRequest writes the body of a call for many guarantees, and of claims that may back refunds among them.
func certifyRequest(list []guarantee.Signed, cover []evm.Hash) (b []byte, err error) {
	b = append(make([]byte, 0, signedBytes*(1+len(list))), `{"guarantees":[`...)
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = s.AppendJSON(b); err != nil {
			return nil, err
		}
	}
	b = append(b, `],"certificate":"batch"`...)
	if len(cover) > 0 {
		digests, _ := json.Marshal(cover) // text: cannot fail
		b = append(append(b, `,"cover":`...), digests...)
	}
	return append(b, '}'), nil
}

// Refund has a guarantee certified that gives a purchase back (guarantee.RefundID). What its payer's collateral does not
// cover may be backed by the claims that cover names: guarantees of the cycle that is open, by digest, owed to the payer and
// captured, because those can no longer be lowered.
func (c *Client) Refund(ctx context.Context, s guarantee.Signed, cover []evm.Hash) (guarantee.Certificate, error) {
	results, err := c.post(ctx, []guarantee.Signed{s}, cover)
	if err != nil {
		return guarantee.Certificate{}, err
	}
	return results[0].Certificate, results[0].Err
}

func (c *Client) postMany(ctx context.Context, list []guarantee.Signed) ([]Result, error) {
	return c.post(ctx, list, nil)
}

func (c *Client) post(ctx context.Context, list []guarantee.Signed, cover []evm.Hash) ([]Result, error) {
	body, err := certifyRequest(list, cover)
	if err != nil {
		return nil, badRequest(err)
	}
	answer, err := c.answer(ctx, http.MethodPost, "/core/guarantees", "", body)
	if err != nil {
		return nil, err
	}
	results := make([]Result, 0, len(list))
	o, err := jsonobject.Parse(answer, bytes.EqualFold)
	if err == nil {
		err = jsonobject.List(o.Get("results"), func(raw []byte) error {
			results = append(results, c.result(ctx, raw))
			return nil
		})
	}
	switch {
	case err != nil:
		return nil, c.unreachable(ctx, fmt.Errorf("answer cannot be read: %w", err))
	case len(results) != len(list):
		return nil, c.unreachable(ctx, fmt.Errorf("answered %d guarantees with %d results", len(list), len(results)))
	}
	return results, nil
}

func (c *Client) result(ctx context.Context, raw []byte) (r Result) {
	// Almost every result is a certificate, so whether it is a refusal is asked only of one that has a refusal's members.
	o, err := jsonobject.Split(raw, bytes.EqualFold)
	if o.Get("error") != nil || o.Get("code") != nil {
		if refusal := refused(raw, "house_refused"); refusal != nil {
			return Result{Err: refusal}
		}
	}
	if err == nil {
		err = r.Certificate.UnmarshalJSON(raw)
	}
	if err != nil {
		return Result{Err: c.unreachable(ctx, err)}
	}
	r.Replayed = string(o.Get("replayed")) == "true"
	return r
}

// joiner gathers guarantees that arrive while a call is under way into the next call. There is no timer: the first one
// leaves at once, and whoever comes later waits at most for the call before.
type joiner struct {
	post func(context.Context, []guarantee.Signed) ([]Result, error)

	mu     sync.Mutex
	queue  []*waiting // guarded by mu; not sent yet
	flying int        // guarded by mu
}

type waiting struct {
	signed guarantee.Signed
	result chan Result // of one: a caller that left does not hold up the call
}

// do returns what became of s; its error is the context's.
func (j *joiner) do(ctx context.Context, s guarantee.Signed) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	w := &waiting{signed: s, result: make(chan Result, 1)}
	j.mu.Lock()
	j.queue = append(j.queue, w)
	if j.leaves() {
		j.flying++
		go j.fly()
	}
	j.mu.Unlock()
	select {
	case r := <-w.result:
		return r, nil
	case <-ctx.Done():
		j.leave(w)
		return Result{}, ctx.Err()
	}
}

// leaves reports whether a call should leave now: nothing is under way, or it is full. The caller holds mu.
func (j *joiner) leaves() bool {
	return len(j.queue) > 0 && j.flying == 0 || len(j.queue) >= JoinMax && j.flying < joinedCalls
}

// leave takes w out of the queue, if it was not sent yet.
func (j *joiner) leave(w *waiting) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if i := slices.Index(j.queue, w); i >= 0 {
		j.queue = slices.Delete(j.queue, i, i+1)
	}
}

// fly makes calls until nobody waits, or another call that is under way will take those who do. A call belongs to all who
// joined it, hence to none of their contexts; its time limit is post's own.
func (j *joiner) fly() {
	for {
		j.mu.Lock()
		j.flying--
		if !j.leaves() {
			j.mu.Unlock()
			return
		}
		j.flying++
		crew := slices.Clone(j.queue[:min(len(j.queue), JoinMax)])
		j.queue = slices.Delete(j.queue, 0, len(crew))
		j.mu.Unlock()

		list := make([]guarantee.Signed, len(crew))
		for i, w := range crew {
			list[i] = w.signed
		}
		results, err := j.post(context.Background(), list)
		for i, w := range crew {
			if err != nil {
				w.result <- Result{Err: err}
			} else {
				w.result <- results[i]
			}
		}
	}
}

// Notes delivers payees' notes. It returns one error for each, nil where the clearing house has the note; the second
// error is not nil if the whole call failed, and then nothing is known.
func (c *Client) Notes(ctx context.Context, notes []guarantee.SignedNote) ([]error, error) {
	outcome := make([]error, 0, len(notes))
	for part := range slices.Chunk(notes, CertifyMax) {
		var answer struct {
			Results []json.RawMessage `json:"results"`
		}
		body := map[string]any{"notes": part}
		if err := c.say(ctx, "/core/notes", body, &answer); err != nil {
			return outcome, err
		}
		if len(answer.Results) != len(part) {
			return outcome, c.unreachable(ctx, errors.New("answered notes with another number of results"))
		}
		for _, raw := range answer.Results {
			outcome = append(outcome, refused(raw, "house_refused"))
		}
	}
	return outcome, nil
}
