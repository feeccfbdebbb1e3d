package x402

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// depthMax is how deep a value of the protocol may be nested; schemas in extensions need about ten levels.
const depthMax = 32

// Decode reads one JSON value strictly: valid UTF-8, nothing behind the value, no member named twice at any level in any
// letter case, and no deeper than a payment ever is. Unknown members are ignored, as the protocol asks.
func Decode(b []byte, v any) error {
	if err := checkMembers(b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// checkMembers refuses what two parsers could read differently. Members that differ in letter case only count as the
// same, since encoding/json matches names without regard to it.
func checkMembers(b []byte) error {
	if !utf8.Valid(b) {
		return errors.New("not UTF-8 text")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var open []map[string]bool // the members seen of each open object; nil for an array
	named := false             // a member's name was read and its value comes next
	for {
		tok, err := dec.Token()
		if err == io.EOF && len(open) == 0 {
			return nil
		}
		if err == io.EOF {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		if d, ok := tok.(json.Delim); ok && (d == '}' || d == ']') {
			open = open[:len(open)-1]
			continue
		}
		if len(open) > 0 && open[len(open)-1] != nil && !named {
			name := fold(tok.(string))
			if open[len(open)-1][name] {
				return fmt.Errorf("member %q is there twice", tok)
			}
			open[len(open)-1][name], named = true, true
			continue
		}
		named = false
		if d, ok := tok.(json.Delim); ok {
			if len(open) == depthMax {
				return errors.New("nested too deeply")
			}
			var members map[string]bool
			if d == '{' {
				members = map[string]bool{}
			}
			open = append(open, members)
		}
	}
}

// fold maps all spellings that encoding/json takes for the same name to one: the smallest rune of each letter's orbit,
// so that K and the Kelvin sign are alike, which lower case alone would miss.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		return least
	}, name)
}

// compact encodes v without spaces and in ASCII, other characters escaped: clients of version 1 do not decode UTF-8 in
// headers.
func compact(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	b := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	out := make([]byte, 0, len(b))
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		switch {
		case r < utf8.RuneSelf:
			out = append(out, byte(r))
		case r >= 0x10000:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		b = b[size:]
	}
	return out, nil
}

// sameJSON reports whether two values mean the same: the order of members and the spelling of strings do not count,
// numbers are compared as written.
func sameJSON(a, b json.RawMessage) bool {
	x, okX := canonical(a)
	y, okY := canonical(b)
	return okX && okY && bytes.Equal(x, y)
}

// canonical re-encodes a value with sorted members.
func canonical(raw json.RawMessage) ([]byte, bool) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return nil, false
	}
	b, err := json.Marshal(v)
	return b, err == nil
}
