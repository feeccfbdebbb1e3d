package x402

import (
	"encoding/json"
	"errors"
	"maps"
	"testing"
	"unicode/utf8"
)

// plain is Requirements as encoding/json would fill them.
type plain struct {
	Scheme            string
	Network           string
	Amount            string
	Asset             string
	PayTo             string
	MaxTimeoutSeconds int
	Extra             map[string]json.RawMessage
}

// Text is read as encoding/json reads it, and refused where that refuses it.
func FuzzObjectsAreReadAsTheStandardLibraryReadsThem(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, ` null `, `[]`, `"x"`, `1`, `{"scheme":"exact"}`, `{"SCHEME":"exact","payto":"a"}`, `{"scheme":null,"extra":null}`,
		` { "scheme" : "exact" , "extra" : { "a" : [ 1 , { "b" : "}" } ] , "" : null , "q\"" : "\\" } , "amount":"5"}`,
		`{"scheme":5}`, `{"amount":5}`, `{"maxTimeoutSeconds":60}`, `{"maxTimeoutSeconds":6.0}`, `{"maxTimeoutSeconds":"60"}`, `{"maxTimeoutSeconds":-1e3}`,
		`{"extra":[]}`, `{"extra":{}}`, `{"sch\u0065me":"ex\u0061ct\ud800"}`, `{"ſcheme":"long s"}`, `{"unknown":{"scheme":"x"},"scheme":"y"}`,
		`{"scheme":"a","maxTimeoutSeconds":99999999999999999999}`, `{"extra":{"a":1}}x`, `{"scheme":"a"`, `{"a":-0.5e7,"scheme":true}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if strict(text) != nil || !utf8.Valid(text) {
			if (&Requirements{}).UnmarshalJSON(text) == nil && !json.Valid(text) {
				t.Fatalf("%q is no JSON and was read", text)
			}
			return
		}
		var want plain
		wrong := json.Unmarshal(text, &want)
		var got Requirements
		err := fill(text, field{"scheme", &got.Scheme}, field{"network", &got.Network}, field{"amount", &got.Amount}, field{"asset", &got.Asset},
			field{"payTo", &got.PayTo}, field{"maxTimeoutSeconds", &got.MaxTimeoutSeconds}, field{"extra", &got.Extra})
		if (err == nil) != (wrong == nil) {
			t.Fatalf("%q: %v, encoding/json says %v", text, err, wrong)
		}
		if err != nil {
			return
		}
		same := plain{got.Scheme, got.Network, got.Amount, got.Asset, got.PayTo, got.MaxTimeoutSeconds, nil}
		extra := want.Extra
		want.Extra = nil
		if a, b := must(json.Marshal(same)), must(json.Marshal(want)); a != b {
			t.Errorf("%q is read as %s, by encoding/json as %s", text, a, b)
		}
		if !maps.EqualFunc(got.Extra, extra, func(a, b json.RawMessage) bool { return string(a) == string(b) }) || (got.Extra == nil) != (extra == nil) {
			t.Errorf("%q: extra is %q, by encoding/json %q", text, got.Extra, extra)
		}
	})
}

func must(b []byte, err error) string {
	if err != nil {
		panic(errors.Join(errors.New("cannot be"), err))
	}
	return string(b)
}
