package x402

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// Every paid request brings a payment, and every call of a facilitator two more objects. encoding/json looks at each byte
// of such nested text seven times: three objects, each checked before it is read, and skipped before that. Here text is
// checked once and then taken apart, under the same rules: names without regard to letter case, null as nothing.

// field is where a member goes: a *string, *int, **int, *json.RawMessage, *map[string]json.RawMessage, or whatever
// encoding/json can fill.
type field struct {
	name string
	to   any
}

// fill puts the members of an object into fields and passes over all others. The text must be valid JSON; raw members are
// parts of it, not copies.
func fill(b []byte, fields ...field) error {
	return eachMember(b, func(name, value []byte) error {
		for _, f := range fields {
			if !bytes.EqualFold(name, []byte(f.name)) {
				continue
			}
			if err := put(f.to, value); err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			return nil
		}
		return nil
	})
}

func put(to any, value []byte) error {
	if raw, ok := to.(*json.RawMessage); ok {
		*raw = value
		return nil
	}
	if string(value) == "null" {
		return nil
	}
	switch to := to.(type) {
	case *string:
		if value[0] != '"' {
			return errors.New("not text")
		}
		*to = string(unquoted(value))
	case *int:
		n, err := strconv.Atoi(string(value))
		if err != nil {
			return errors.New("not a whole number")
		}
		*to = n
	case **int:
		*to = new(int)
		return put(*to, value)
	case *map[string]json.RawMessage:
		all := make(map[string]json.RawMessage)
		*to = all
		return eachMember(value, func(name, value []byte) error {
			all[string(name)] = value
			return nil
		})
	default:
		return json.Unmarshal(value, to)
	}
	return nil
}

// eachMember calls f with the name and value of every member of an object in valid JSON. Null has none.
func eachMember(b []byte, f func(name, value []byte) error) error {
	i := pastSpace(b, 0)
	if string(bytes.TrimSpace(b)) == "null" {
		return nil
	}
	if i == len(b) || b[i] != '{' {
		return errors.New("not an object")
	}
	for i = pastSpace(b, i+1); b[i] != '}'; {
		end := pastValue(b, i)
		name := unquoted(b[i:end])
		i = pastSpace(b, pastSpace(b, end)+1) // behind the colon
		end = pastValue(b, i)
		if err := f(name, b[i:end:end]); err != nil {
			return err
		}
		if i = pastSpace(b, end); b[i] == ',' {
			i = pastSpace(b, i+1)
		}
	}
	return nil
}

func pastSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// pastValue returns where the value that begins at i ends.
func pastValue(b []byte, i int) int {
	depth := 0
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
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

// valid returns what is wrong with JSON text.
func valid(b []byte) error {
	if json.Valid(b) {
		return nil
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	return errors.New("not JSON")
}
