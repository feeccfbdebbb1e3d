package api

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// certificateAnswer is what a certified guarantee is answered with. Certificate marshals itself, so its members are
// joined by hand.
type certificateAnswer struct {
	guarantee.Certificate
	replayed bool
}

// MarshalJSON writes {claims, signature, batch?, replayed?}.
func (a certificateAnswer) MarshalJSON() ([]byte, error) {
	b, err := a.Certificate.MarshalJSON()
	if err != nil || !a.replayed {
		return b, err
	}
	return append(b[:len(b)-1], `,"replayed":true}`...), nil
}

type results struct {
	Results []any `json:"results"`
}

// postGuarantees admits one guarantee, in the body that 4Mica's clients send, or many.
func (h *handler) postGuarantees(r *http.Request) (any, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	var w struct {
		Certificate *string            `json:"certificate"`
		Guarantees  *[]json.RawMessage `json:"guarantees"`
		Claims      json.RawMessage    `json:"claims"`
	}
	if err := x402.Decode(body, &w); err != nil {
		return nil, malformed(err)
	}
	batch := false
	if w.Certificate != nil {
		switch *w.Certificate {
		case "batch":
			batch = true
		case "single":
		default:
			return nil, x402.Errorf("malformed_request", "certificate %q: there are single and batch", clip(*w.Certificate))
		}
	}
	if w.Guarantees == nil {
		s, err := decodeItem[guarantee.Signed](body)
		if err != nil {
			return nil, err
		}
		res := h.House.Admit(r.Context(), []clearing.Request{{Signed: s, Batch: batch}}, h.Now())[0]
		if res.Err != nil {
			return nil, res.Err
		}
		return certificateAnswer{res.Certificate, res.Replayed}, nil
	}
	if w.Claims != nil {
		return nil, x402.Errorf("malformed_request", "one guarantee or many, not both at once")
	}
	return many(h, r, *w.Guarantees, "not_found", "payer_signature_invalid", func(list []guarantee.Signed) ([]any, []error) {
		requests := make([]clearing.Request, len(list))
		for i, s := range list {
			requests[i] = clearing.Request{Signed: s, Batch: batch}
		}
		out, errs := make([]any, len(list)), make([]error, len(list))
		for i, res := range h.House.Admit(r.Context(), requests, h.Now()) {
			out[i], errs[i] = certificateAnswer{res.Certificate, res.Replayed}, res.Err
		}
		return out, errs
	})
}

type noteAnswer struct {
	Digest evm.Hash     `json:"digest"`
	Amount money.Amount `json:"amount"` // payable now
}

// postNotes takes one note, or many.
func (h *handler) postNotes(r *http.Request) (any, error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	var w struct {
		Notes  *[]json.RawMessage `json:"notes"`
		Digest json.RawMessage    `json:"digest"`
	}
	if err := x402.Decode(body, &w); err != nil {
		return nil, malformed(err)
	}
	take := func(list []guarantee.SignedNote) ([]any, []error) {
		out := make([]any, len(list))
		for i, n := range list {
			out[i] = noteAnswer{n.Digest, n.Amount}
		}
		return out, h.House.Note(r.Context(), list, h.Now())
	}
	if w.Notes == nil {
		n, err := decodeItem[guarantee.SignedNote](body)
		if err != nil {
			return nil, err
		}
		out, errs := take([]guarantee.SignedNote{n})
		if errs[0] != nil {
			return nil, h.public(r, errs[0], "note_invalid", "note_invalid")
		}
		return out[0], nil
	}
	if w.Digest != nil {
		return nil, x402.Errorf("malformed_request", "one note or many, not both at once")
	}
	return many(h, r, *w.Notes, "note_invalid", "note_invalid", take)
}

// many decodes items, does the good ones together, and answers each in its place: an item's fault touches no other.
func many[T any](h *handler, r *http.Request, raw []json.RawMessage, notFound, signature string, do func([]T) ([]any, []error)) (any, error) {
	if len(raw) == 0 || len(raw) > ItemsMax {
		return nil, x402.Errorf("malformed_request", "%d items: between 1 and %d are taken at once", len(raw), ItemsMax)
	}
	answers := make([]any, len(raw))
	list, place := make([]T, 0, len(raw)), make([]int, 0, len(raw))
	for i, item := range raw {
		v, err := decodeItem[T](item)
		if err != nil {
			answers[i] = h.public(r, err, notFound, signature)
			continue
		}
		list, place = append(list, v), append(place, i)
	}
	if len(list) > 0 {
		out, errs := do(list)
		for k, i := range place {
			if errs[k] != nil {
				answers[i] = h.public(r, errs[k], notFound, signature)
			} else {
				answers[i] = out[k]
			}
		}
	}
	return results{answers}, nil
}

func decodeItem[T any](raw []byte) (v T, err error) {
	if len(raw) > itemBytesMax {
		return v, x402.Errorf("body_too_large", "item of %d bytes: at most %d are read", len(raw), itemBytesMax)
	}
	if err := json.Unmarshal(raw, &v); err != nil {
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
		return nil, errBodyTooLarge
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, bodyBytesMax+1))
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, x402.Errorf("malformed_request", "body ends before its length")
	case err != nil:
		return nil, x402.Errorf("malformed_request", "body: %w", err)
	case len(body) > bodyBytesMax:
		return nil, errBodyTooLarge
	}
	return body, nil
}

var errBodyTooLarge = x402.Errorf("body_too_large", "body is larger than %d bytes", bodyBytesMax)
