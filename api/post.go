package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/internal/jsonobject"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// appender is an answer that writes itself as JSON behind what is in b. encoding/json would look again at every byte of
// what a value marshals itself as, and certificates are many bytes.
type appender interface {
	appendJSON(b []byte) ([]byte, error)
}

// appendJSON writes any answer.
func appendJSON(b []byte, v any) ([]byte, error) {
	if a, ok := v.(appender); ok {
		return a.appendJSON(b)
	}
	text, err := json.Marshal(v)
	return append(b, text...), err
}

// certificateAnswer is what a certified guarantee is answered with.
type certificateAnswer struct {
	guarantee.Certificate
	replayed bool
}

// appendJSON writes {claims, signature, batch?, replayed?}.
func (a certificateAnswer) appendJSON(b []byte) ([]byte, error) {
	b = a.Certificate.AppendJSON(b)
	if a.replayed {
		b = append(b[:len(b)-1], `,"replayed":true}`...)
	}
	return b, nil
}

// results are the answers to many items, each in its place.
type results []any

// appendJSON writes {results}.
func (r results) appendJSON(b []byte) (_ []byte, err error) {
	b = append(b, `{"results":[`...)
	for i, answer := range r {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendJSON(b, answer); err != nil {
			return b, err
		}
	}
	return append(b, "]}"...), nil
}

// postGuarantees admits one guarantee, in the body that 4Mica's clients send, or many.
func (h *handler) postGuarantees(r *http.Request) (any, error) {
	if h.Ready != nil {
		if err := h.Ready(); err != nil {
			return nil, err
		}
	}
	body, o, err := readObject(r)
	if err != nil {
		return nil, err
	}
	batch := false
	if raw := o.Get("certificate"); raw != nil {
		form, err := jsonobject.Unquote(raw)
		switch {
		case err == nil && string(form) == "batch":
			batch = true
		case err != nil || string(form) != "single":
			return nil, x402.Errorf("malformed_request", "certificate %s: there are single and batch", clip(string(raw)))
		}
	}
	cover, err := readCover(o)
	if err != nil {
		return nil, err
	}
	if len(cover) > 0 { // each claim is a look-up, and costs as much as a guarantee
		free, err := h.begin(r, len(cover))
		if err != nil {
			return nil, err
		}
		defer free()
	}
	list := o.Get("guarantees")
	if list == nil {
		s, err := decodeItem[guarantee.Signed](body)
		if err != nil {
			return nil, err
		}
		free, err := h.begin(r, 1)
		if err != nil {
			return nil, err
		}
		defer free()
		out, errs := h.admit(r, []guarantee.Signed{s}, batch, cover)
		return out[0], errs[0]
	}
	if o.Get("claims") != nil {
		return nil, x402.Errorf("malformed_request", "one guarantee or many, not both at once")
	}
	return many(h, r, list, "not_found", "payer_signature_invalid", func(list []guarantee.Signed) ([]any, []error) {
		if len(list) == 1 {
			return h.admit(r, list, batch, cover)
		}
		return h.admit(r, list, batch, nil)
	})
}

// begin lets n items be worked on, until free is called, or says when there will be room.
func (h *handler) begin(r *http.Request, n int) (free func(), err error) {
	if h.Inside {
		return func() {}, nil
	}
	if err := h.limits.post.take(h.from(r), n, h.Now()); err != nil {
		return nil, err
	}
	if err := h.limits.items.take(int64(n), "guarantees and notes"); err != nil {
		return nil, err
	}
	return func() { h.limits.items.give(int64(n)) }, nil
}

// blamed are the codes of what only somebody sends who does not check, or who wants to keep us busy.
var blamed = []string{"malformed_request", "body_too_large", "payer_signature_invalid", "high_s", "eip191_off", "note_invalid", "token_invalid"}

// blame counts a refused item.
func (h *handler) blame(r *http.Request, e *x402.Error) {
	if r.Pattern == "/core/guarantees" {
		h.metrics.items.WithLabelValues(e.Code).Inc()
	}
	if slices.Contains(blamed, e.Code) && !h.Inside {
		_ = h.limits.refused.take(h.from(r), 1, h.Now()) // the next request finds out
	}
}

// admit asks the house for certificates of the guarantees whose payers do not ask for too many.
func (h *handler) admit(r *http.Request, list []guarantee.Signed, batch bool, cover []evm.Hash) ([]any, []error) {
	out, errs := make([]any, len(list)), make([]error, len(list))
	begun := time.Now()
	requests, place := make([]clearing.Request, 0, len(list)), make([]int, 0, len(list))
	// Of a payer's allowance is taken only what the payer has signed: nobody can use up another's.
	now, asked := h.Now(), make(map[evm.Address]int)
	for i, s := range list {
		payer := s.Claims.Payer
		if errs[i] = h.limits.payer.has(string(payer[:]), asked[payer]+1, now); errs[i] == nil {
			asked[payer]++
			requests, place = append(requests, clearing.Request{Signed: s, Batch: batch, Cover: cover}), append(place, i)
		}
	}
	for k, res := range h.House.Admit(r.Context(), requests, now) {
		if payer := requests[k].Signed.Claims.Payer; !res.Digest.IsZero() {
			_ = h.limits.payer.take(string(payer[:]), 1, now)
		}
		out[place[k]], errs[place[k]] = certificateAnswer{res.Certificate, res.Replayed}, res.Err
		switch {
		case res.Err == nil && res.Replayed:
			h.metrics.items.WithLabelValues("replayed").Inc()
		case res.Err == nil:
			h.metrics.items.WithLabelValues("certified").Inc()
		}
	}
	h.metrics.admission.Observe(time.Since(begun).Seconds())
	return out, errs
}

// readCover reads the digests of claims that may back a refund. They go with one guarantee: among several it would not be
// clear whose they are.
func readCover(o jsonobject.Object) (cover []evm.Hash, err error) {
	raw := o.Get("cover")
	if raw == nil {
		return nil, nil
	}
	err = jsonobject.List(raw, func(value []byte) error {
		text, err := jsonobject.Unquote(value)
		if err != nil {
			return err
		}
		digest, err := evm.ParseHash(string(text))
		if cover = append(cover, digest); len(cover) > clearing.CoverMax {
			return fmt.Errorf("more than %d digests", clearing.CoverMax)
		}
		return err
	})
	if err != nil {
		return nil, x402.Errorf("malformed_request", "cover: %w", err)
	}
	return cover, nil
}

type noteAnswer struct {
	Digest evm.Hash     `json:"digest"`
	Amount money.Amount `json:"amount"` // payable now
}

// postNotes takes one note, or many.
func (h *handler) postNotes(r *http.Request) (any, error) {
	body, o, err := readObject(r)
	if err != nil {
		return nil, err
	}
	take := func(list []guarantee.SignedNote) ([]any, []error) {
		out := make([]any, len(list))
		for i, n := range list {
			out[i] = noteAnswer{n.Digest, n.Amount}
		}
		return out, h.House.Note(r.Context(), list, h.Now())
	}
	list := o.Get("notes")
	if list == nil {
		n, err := decodeItem[guarantee.SignedNote](body)
		if err != nil {
			return nil, err
		}
		free, err := h.begin(r, 1)
		if err != nil {
			return nil, err
		}
		defer free()
		out, errs := take([]guarantee.SignedNote{n})
		if errs[0] != nil {
			return nil, h.public(r, errs[0], "note_invalid", "note_invalid")
		}
		return out[0], nil
	}
	if o.Get("digest") != nil {
		return nil, x402.Errorf("malformed_request", "one note or many, not both at once")
	}
	return many(h, r, list, "note_invalid", "note_invalid", take)
}

// many decodes items, does the good ones together, and answers each in its place: an item's fault touches no other.
func many[T any, P item[T]](h *handler, r *http.Request, raw []byte, notFound, signature string, do func([]T) ([]any, []error)) (any, error) {
	var items [][]byte
	err := jsonobject.List(raw, func(value []byte) error { items = append(items, value); return nil })
	if err != nil {
		return nil, malformed(err)
	}
	if len(items) == 0 || len(items) > ItemsMax {
		return nil, x402.Errorf("malformed_request", "%d items: between 1 and %d are taken at once", len(items), ItemsMax)
	}
	free, err := h.begin(r, len(items))
	if err != nil {
		return nil, err
	}
	defer free()
	refused := func(err error) *x402.Error {
		e := h.public(r, err, notFound, signature)
		h.blame(r, e)
		return e
	}
	answers := make(results, len(items))
	list, place := make([]T, 0, len(items)), make([]int, 0, len(items))
	for i, item := range items {
		v, err := decodeItem[T, P](item)
		if err != nil {
			answers[i] = refused(err)
			continue
		}
		list, place = append(list, v), append(place, i)
	}
	if len(list) > 0 {
		out, errs := do(list)
		for k, i := range place {
			if errs[k] != nil {
				answers[i] = refused(errs[k])
			} else {
				answers[i] = out[k]
			}
		}
	}
	return answers, nil
}

// item is what reads itself from JSON.
type item[T any] interface {
	*T
	json.Unmarshaler
}

func decodeItem[T any, P item[T]](raw []byte) (v T, err error) {
	if len(raw) > itemBytesMax {
		return v, x402.Errorf("body_too_large", "item of %d bytes: at most %d are read", len(raw), itemBytesMax)
	}
	if err := P(&v).UnmarshalJSON(raw); err != nil {
		return v, malformed(err)
	}
	return v, nil
}

// malformed gives an error of reading its code; those of package guarantee have one already.
func malformed(err error) error {
	if coded(err, "not_found", "payer_signature_invalid") != nil {
		return err
	}
	return x402.Errorf("malformed_request", "body: %w", err)
}

// readObject reads a body that is a JSON object, and splits it.
func readObject(r *http.Request) (body []byte, o jsonobject.Object, err error) {
	if body, err = readBody(r); err != nil {
		return nil, nil, err
	}
	if o, err = jsonobject.Parse(body, bytes.EqualFold); err != nil {
		return nil, nil, malformed(err)
	}
	return body, o, nil
}

// readBody reads a JSON body. What curl sends by default is taken for JSON too.
func readBody(r *http.Request) ([]byte, error) {
	if text := r.Header.Get("Content-Type"); text != "" {
		kind, params, err := mime.ParseMediaType(text)
		json := kind == "application/json" || kind == "text/json" || strings.HasSuffix(kind, "+json") || kind == "text/plain" ||
			kind == "application/x-www-form-urlencoded"
		if charset := params["charset"]; err != nil || !json || charset != "" && !strings.EqualFold(charset, "utf-8") {
			return nil, x402.Errorf("malformed_request", "content type %q: JSON in UTF-8 is read", clip(text))
		}
	}
	if enc := r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return nil, x402.Errorf("malformed_request", "content encoding %q is not read", clip(enc))
	}
	if r.ContentLength > bodyBytesMax {
		return nil, tooLarge(r)
	}
	// A body of known length is read without growing, but nobody is given much memory for a promise.
	in := bytes.NewBuffer(make([]byte, 0, min(max(0, r.ContentLength), 64<<10)+bytes.MinRead))
	_, err := in.ReadFrom(io.LimitReader(r.Body, bodyBytesMax+1))
	body := in.Bytes()
	switch later := (*laterError)(nil); {
	case errors.As(err, &later):
		return nil, later
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, x402.Errorf("malformed_request", "body ends before its length")
	case err != nil:
		return nil, x402.Errorf("malformed_request", "body: %w", err)
	case len(body) > bodyBytesMax:
		return nil, tooLarge(r)
	}
	return body, nil
}

// tooLarge lets a client that sends not much too much send it, or it would see its connection end in place of the reason.
func tooLarge(r *http.Request) error {
	_, _ = io.CopyN(io.Discard, r.Body, bodyBytesMax)
	return x402.Errorf("body_too_large", "body is larger than %d bytes", bodyBytesMax)
}
