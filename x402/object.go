package x402

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/farthing402/farthing/internal/jsonobject"
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
		text, err := jsonobject.Unquote(value)
		if err != nil {
			return err
		}
		*to = string(text)
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
	i := jsonobject.SkipSpace(b, 0)
	if string(bytes.TrimSpace(b)) == "null" {
		return nil
	}
	if i == len(b) || b[i] != '{' {
		return errors.New("not an object")
	}
	return jsonobject.Each(b[i:], f)
}

// valid returns what is wrong with JSON text.
func valid(b []byte) error {
	if jsonobject.Valid(b) {
		return nil
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	return errors.New("nested too deeply")
}
