package x402

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/farthing402/farthing/internal/jsonobject"
)

// depthMax is how deep a value of the protocol may be nested; schemas in extensions need about ten levels.
const depthMax = 32

// Decode reads one JSON value strictly: valid UTF-8, nothing behind the value, no member named twice at any level in any
// letter case, and no deeper than a payment ever is. Unknown members are ignored, as the protocol asks. After an error v
// holds nothing that may be used.
func Decode(b []byte, v any) error {
	if !utf8.Valid(b) {
		return errNotUTF8
	}
	if err := json.Unmarshal(b, v); err != nil {
		return err
	}
	return checkMembers(b)
}

// strict returns what Decode would find wrong with text, whatever it is decoded into.
func strict(b []byte) error {
	if !utf8.Valid(b) {
		return errNotUTF8
	}
	if err := valid(b); err != nil {
		return err
	}
	return checkMembers(b)
}

var errNotUTF8 = errors.New("not UTF-8 text")

// checkMembers refuses valid JSON that two parsers could read differently. Members that differ in letter case only count
// as the same, since encoding/json matches names without regard to it. Every paid request comes through here, so it walks
// over the bytes rather than over tokens, and keeps names where they stand.
func checkMembers(b []byte) error {
	var openSpace [8]members
	var nameSpace [32][]byte
	open, names := openSpace[:0], nameSpace[:0]
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{', '[':
			if len(open) == depthMax {
				return errors.New("nested too deeply")
			}
			open = append(open, members{object: b[i] == '{', first: len(names)})
		case '}', ']':
			names = names[:open[len(open)-1].first]
			open = open[:len(open)-1]
		case ',':
			open[len(open)-1].inValue = false
		case ':':
			open[len(open)-1].inValue = true
		case '"':
			start := i
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			if len(open) == 0 || !open[len(open)-1].object || open[len(open)-1].inValue {
				continue
			}
			name, err := jsonobject.Unquote(b[start : i+1])
			if err != nil {
				return err
			}
			m := &open[len(open)-1]
			if m.again(names[m.first:], name) {
				return fmt.Errorf("member %s is there twice", b[start:i+1])
			}
			names = append(names, name)
		}
	}
	return nil
}

// members are those seen of one object, or nothing for an array. Their names are at the end of the list of all that are
// open.
type members struct {
	object, inValue bool
	first           int             // of its names in the list
	many            map[string]bool // folded, once there are more than manyMembers
}

// manyMembers is when searching a list gets slower than a map. A hostile body may have hundreds of thousands.
const manyMembers = 16

// again takes in a name and reports whether it is one of those seen.
func (m *members) again(seen [][]byte, name []byte) bool {
	if m.many == nil && len(seen) < manyMembers {
		return slices.ContainsFunc(seen, func(n []byte) bool { return bytes.EqualFold(n, name) })
	}
	if m.many == nil {
		m.many = make(map[string]bool)
		for _, n := range seen {
			m.many[fold(string(n))] = true
		}
	}
	folded := fold(string(name))
	there := m.many[folded]
	m.many[folded] = true
	return there
}

// fold maps all spellings that encoding/json takes for the same name to one, in lower case. It looks at each letter's
// whole orbit, so that K and the Kelvin sign are alike, which lower case alone would miss.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf {
			return unicode.ToLower(r)
		}
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		return unicode.ToLower(least)
	}, name)
}

// encodePlain encodes v without spaces and without escapes for HTML.
func encodePlain(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// compact encodes v without spaces and in ASCII, other characters escaped: clients of version 1 do not decode UTF-8 in
// headers.
func compact(v any) ([]byte, error) {
	b, err := encodePlain(v)
	if err != nil {
		return nil, err
	}
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
