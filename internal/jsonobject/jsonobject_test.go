package jsonobject

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// nested is text of as many lists in each other.
func nested(depth int) string { return strings.Repeat("[", depth) + strings.Repeat("]", depth) }

// seeds are at every edge of the grammar.
var seeds = []string{
	``, ` `, `{}`, `[]`, ` { } `, ` [ ] `, `{"a":1}`, `{"a":1,}`, `{"a":1,"b":[true,false,null]}`, `{,}`, `[,]`, `[1,]`, `[1 2]`, `{"a"}`, `{"a":}`,
	`{a:1}`, `{1:1}`, `[1,2`, `[`, `{`, `{"`, `{"a":1`, `]`, `}`, `[}`, `tru`, `true`, `truex`, `nul`, `null `, `fals`,
	`0`, `-0`, `-`, `01`, `1.`, `.1`, `1.5`, `1e`, `1e+`, `1E-7`, `1e5.5`, `+1`, `1 1`, `0x1`, `-a`,
	`"`, `""`, `"a`, `"\`, `"\"`, `"\""`, `"\x"`, `"\u12"`, `"\u12g4"`, `"\u00e4\ud800"`, `"\b\f\n\r\t\/\\"`,
	"\"\x1f\"", "\"1234567\x00\"", "\"12345678\x7f90\"", `"1234567"`, `"12345678"`, `"123456789"`, `"12345678\"9"`, `"ünïcöde, of more than eight bytes"`, "\"\xff\"",
	"\t\r\n{\n}\t", "\v1", nested(depthMax - 1), nested(depthMax), `{"a":` + nested(8) + `}`,
}

// What is taken is what encoding/json takes, in UTF-8 and not nested too deeply.
func FuzzValid(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !utf8.Valid(b) || bytes.Count(b, []byte("["))+bytes.Count(b, []byte("{")) >= depthMax {
			if Valid(b) && !json.Valid(b) {
				t.Errorf("%q is taken for JSON", b)
			}
			return
		}
		if got, want := Valid(b), json.Valid(b); got != want {
			t.Errorf("%q: valid is %v, want %v", b, got, want)
		}
	})
}

func TestValidIsBounded(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		nested(depthMax - 1): true, nested(depthMax + 1): false, nested(1 << 20): false, strings.Repeat(`{"a":`, 1<<20): false,
		"\"\xff\"": false, "\"\xed\xa0\x80\"": false,
	} {
		if got := Valid([]byte(text)); got != want {
			t.Errorf("%.40q…: valid is %v, want %v", text, got, want)
		}
	}
}

func TestListCallsWithEachValue(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`[]`: "", ` [ ] `: "not a list", `[ ]`: "", `[1]`: "1|", "[ \"a,]\\\"\" ,\n{\"b\":[2]},[],null ]": `"a,]\""|{"b":[2]}|[]|null|`,
		`{}`: "not a list", `"[]"`: "not a list", ``: "not a list",
	} {
		var got strings.Builder
		if err := List([]byte(text), func(v []byte) error { got.Write(v); got.WriteByte('|'); return nil }); err != nil {
			got.Reset()
			got.WriteString(err.Error())
		}
		if got.String() != want {
			t.Errorf("%s: %q, want %q", text, got.String(), want)
		}
	}
}

func BenchmarkValid(b *testing.B) {
	text := []byte(`{"claims":"` + strings.Repeat("0123456789abcdef", 48) + `","signature":"` + strings.Repeat("ab", 96) + `"}`)
	b.Run("jsonobject", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			Valid(text)
		}
	})
	b.Run("encoding/json", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			json.Valid(text)
		}
	})
}
