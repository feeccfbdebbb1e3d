// Package jsonobject splits JSON objects without reflection. What is signed arrives by the thousand a second, from
// anybody: decoding it by reflection costs as much as checking the signature, takes "Amount" for "amount", and the last of
// two where another reader takes the first. Here a member is found under its exact name, and none is there twice.
package jsonobject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Same says whether two names are one name twice: [bytes.Equal], or [bytes.EqualFold] as encoding/json has it.
type Same func(a, b []byte) bool

// Object is the members of a JSON object in their order. No two have the same name.
type Object []Member

// Member is one of them: its name without escapes, its value as it stands.
type Member struct{ Name, Value []byte }

// MembersMax bounds an object; the largest that is read so has sixteen members.
const MembersMax = 64

// Parse splits JSON text from outside.
func Parse(b []byte, same Same) (Object, error) {
	if !Valid(b) {
		return nil, errors.New("not JSON")
	}
	return Split(b, same)
}

// Split expects valid JSON, such as the value of a member, so that it need not look for its faults.
func Split(b []byte, same Same) (Object, error) {
	i := SkipSpace(b, 0)
	if i == len(b) || b[i] != '{' {
		return nil, errors.New("not a JSON object")
	}
	o := make(Object, 0, 8)
	err := Each(b[i:], func(name, value []byte) error {
		for _, m := range o {
			if same(m.Name, name) {
				return fmt.Errorf("member %q is there twice", clip(string(name)))
			}
		}
		if len(o) == MembersMax {
			return fmt.Errorf("more than %d members", MembersMax)
		}
		o = append(o, Member{name, value})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return o, nil
}

// List calls f with each value of a list in valid JSON, as it stands. What is no list is an error.
func List(b []byte, f func(value []byte) error) error {
	if len(b) == 0 || b[0] != '[' {
		return errors.New("not a list")
	}
	for i := SkipSpace(b, 1); b[i] != ']'; {
		end := ValueEnd(b, i)
		if err := f(b[i:end:end]); err != nil {
			return err
		}
		if i = SkipSpace(b, end); b[i] == ',' {
			i = SkipSpace(b, i+1)
		}
	}
	return nil
}

// Each calls f with the name, without escapes, and the value, as it stands, of every member of an object in valid JSON, in
// their order. The text begins with the object's brace.
func Each(b []byte, f func(name, value []byte) error) error {
	for i := SkipSpace(b, 1); b[i] != '}'; {
		end := ValueEnd(b, i)
		name, err := Unquote(b[i:end])
		if err != nil {
			return err
		}
		i = SkipSpace(b, SkipSpace(b, end)+1) // behind the colon
		end = ValueEnd(b, i)
		if err := f(name, b[i:end:end]); err != nil {
			return err
		}
		if i = SkipSpace(b, end); b[i] == ',' {
			i = SkipSpace(b, i+1)
		}
	}
	return nil
}

// Get returns a member's value as it stands; nil if there is none.
func (o Object) Get(name string) []byte {
	for _, m := range o {
		if string(m.Name) == name {
			return m.Value
		}
	}
	return nil
}

// SkipSpace returns where the first byte that is no space stands, from i on.
func SkipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// ValueEnd returns where the value that begins at i ends, in valid JSON.
func ValueEnd(b []byte, i int) int {
	depth := 0
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			i = textEnd(b, i)
			if depth == 0 {
				return i
			}
			i--
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 { // a number at its object's end
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ':', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return i
			}
		}
	}
	return i
}

// Unquote returns the text of a JSON string.
func Unquote(raw []byte) ([]byte, error) {
	if len(raw) < 2 || raw[0] != '"' {
		return nil, errors.New("not text")
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1], nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, errors.New("not text")
	}
	return []byte(s), nil
}

// clip bounds text that somebody else wrote.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
