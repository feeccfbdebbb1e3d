package x402

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Bounds of checking a value against a schema that somebody else wrote.
const (
	schemaDepthMax = 64     // of schemas within schemas, references followed
	schemaStepsMax = 50_000 // schemas, values and patterns looked at in all
	patternMax     = 512    // bytes of a regular expression
)

// schemaError is a schema that cannot be used, as against a value that is not what it describes.
type schemaError struct{ text string }

func (e *schemaError) Error() string { return "schema: " + e.text }

// CheckSchema reports whether a value is what a JSON Schema (2020-12) describes. It knows what declarations of inputs and
// outputs are made of: types, constants, objects, arrays, bounds, patterns, combinations, and references within the schema.
// A schema that asks for more is an error, never a pass; so is one that refers to elsewhere, which nobody should follow.
// Formats are not looked at.
func CheckSchema(schema, value json.RawMessage) error {
	s, err := tree(schema)
	if err != nil {
		return &schemaError{err.Error()}
	}
	v, err := tree(value)
	if err != nil {
		return err
	}
	c := checker{root: s, steps: schemaStepsMax, patterns: map[string]*regexp.Regexp{}}
	return c.check(s, v, "", 0)
}

// tree decodes strictly, keeping numbers as they are written.
func tree(raw json.RawMessage) (v any, err error) {
	if !json.Valid(raw) || !utf8.Valid(raw) {
		return nil, errors.New("not JSON")
	}
	if err := checkMembers(raw); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	return v, dec.Decode(&v)
}

var errTooLarge = &schemaError{"too large to be checked"}

// spend counts work, so that a body of a few kilobytes cannot keep anybody busy.
func (c *checker) spend(steps int) error {
	if c.steps -= steps; c.steps < 0 {
		return errTooLarge
	}
	return nil
}

type checker struct {
	root     any
	steps    int
	patterns map[string]*regexp.Regexp
}

// describing are the keywords that decide nothing.
var describing = map[string]bool{
	"$schema": true, "$comment": true, "$defs": true, "definitions": true, "title": true, "description": true, "default": true,
	"examples": true, "example": true, "deprecated": true, "readOnly": true, "writeOnly": true, "format": true, "contentEncoding": true,
	"contentMediaType": true, "contentSchema": true,
}

// check reports whether v, which stands at a path, is what s describes. Keywords come in the order of their names, so that
// the same mistake is always told in the same way.
func (c *checker) check(s, v any, at string, depth int) error {
	if depth > schemaDepthMax {
		return errTooLarge
	}
	if err := c.spend(1); err != nil {
		return err
	}
	m, ok := s.(map[string]any)
	switch {
	case s == true:
		return nil
	case s == false:
		return wrong(at, "is not allowed")
	case !ok:
		return &schemaError{"neither object nor boolean"}
	}
	for _, word := range slices.Sorted(maps.Keys(m)) {
		if err := c.keyword(word, m, v, at, depth); err != nil {
			return err
		}
	}
	return nil
}

// wrong is a value that a schema does not describe.
func wrong(at, format string, args ...any) error {
	return fmt.Errorf("%s %s", "info"+clip(at), fmt.Sprintf(format, args...))
}

func misused(word string) error {
	return &schemaError{fmt.Sprintf("%q is not written as it should be", clip(word))}
}

func (c *checker) keyword(word string, m map[string]any, v any, at string, depth int) error {
	arg := m[word]
	switch word {
	case "$ref":
		target, err := c.resolve(arg)
		if err != nil {
			return err
		}
		return c.check(target, v, at, depth+1)
	case "$id":
		if id, ok := arg.(string); !ok || !strings.HasPrefix(id, "#") {
			return &schemaError{"$id names another place"}
		}
	case "type":
		types, ok := texts(arg)
		if !ok {
			return misused(word)
		}
		if !slices.ContainsFunc(types, func(t string) bool { return isType(t, v) }) {
			return wrong(at, "is not of type %s", clip(strings.Join(types, " or ")))
		}
	case "const":
		if !equal(v, arg) {
			return wrong(at, "is not the value that is allowed")
		}
	case "enum":
		values, ok := arg.([]any)
		if !ok {
			return misused(word)
		}
		if err := c.spend(len(values)); err != nil {
			return err
		}
		if !slices.ContainsFunc(values, func(one any) bool { return equal(v, one) }) {
			return wrong(at, "is none of the values that are allowed")
		}
	case "allOf", "anyOf", "oneOf":
		return c.combine(word, arg, v, at, depth)
	case "not":
		var fault *schemaError
		if err := c.check(arg, v, at, depth+1); err == nil {
			return wrong(at, "is what it must not be")
		} else if errors.As(err, &fault) {
			return err
		}
	case "required", "properties", "additionalProperties", "patternProperties", "propertyNames", "minProperties", "maxProperties":
		if o, ok := v.(map[string]any); ok {
			return c.object(word, m, o, at, depth)
		}
	case "items", "prefixItems", "minItems", "maxItems", "uniqueItems":
		if list, ok := v.([]any); ok {
			return c.array(word, m, list, at, depth)
		}
	case "minLength", "maxLength", "pattern":
		if text, ok := v.(string); ok {
			return c.text(word, arg, text, at)
		}
	case "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf":
		if n, ok := v.(json.Number); ok {
			return bound(word, arg, float(n), at)
		}
	default:
		if !describing[word] && !strings.HasPrefix(word, "x-") {
			return &schemaError{fmt.Sprintf("%q is not checked here", clip(word))}
		}
	}
	return nil
}

// resolve finds what a reference within the schema points to.
func (c *checker) resolve(ref any) (any, error) {
	text, ok := ref.(string)
	if !ok || !strings.HasPrefix(text, "#") {
		return nil, &schemaError{"$ref leads to another place"}
	}
	if text == "#" {
		return c.root, nil
	}
	path, ok := strings.CutPrefix(text, "#/")
	at := c.root
	for part := range strings.SplitSeq(path, "/") {
		m, _ := at.(map[string]any)
		var is bool
		if at, is = m[strings.NewReplacer("~1", "/", "~0", "~").Replace(part)]; !ok || !is {
			return nil, &schemaError{fmt.Sprintf("$ref %q leads nowhere", clip(text))}
		}
	}
	return at, nil
}

// combine checks allOf, anyOf and oneOf. A part that cannot be used is an error whatever the others say.
func (c *checker) combine(word string, arg, v any, at string, depth int) error {
	list, ok := arg.([]any)
	if !ok || len(list) == 0 {
		return misused(word)
	}
	passed := 0
	var first error
	for _, s := range list {
		err := c.check(s, v, at, depth+1)
		var fault *schemaError
		switch {
		case err == nil:
			passed++
		case errors.As(err, &fault):
			return err
		case first == nil:
			first = err
		}
	}
	switch {
	case word == "allOf" && first != nil, passed == 0:
		return first
	case word == "oneOf" && passed > 1:
		return wrong(at, "is more than one of the things that it may be")
	}
	return nil
}

func (c *checker) object(word string, m, o map[string]any, at string, depth int) error {
	arg := m[word]
	switch word {
	case "required":
		names, ok := arg.([]any)
		if !ok {
			return misused(word)
		}
		for _, n := range names {
			name, ok := n.(string)
			if !ok {
				return misused(word)
			}
			if _, there := o[name]; !there {
				return wrong(at, "has no %s", clip(name))
			}
		}
	case "minProperties", "maxProperties":
		return count(word, arg, len(o), at)
	case "propertyNames":
		for _, name := range slices.Sorted(maps.Keys(o)) {
			if err := c.check(arg, name, at+"."+name, depth+1); err != nil {
				return err
			}
		}
	case "properties":
		schemas, ok := arg.(map[string]any)
		if !ok {
			return misused(word)
		}
		for _, name := range slices.Sorted(maps.Keys(schemas)) {
			value, there := o[name]
			if !there {
				continue
			}
			if err := c.check(schemas[name], value, at+"."+name, depth+1); err != nil {
				return err
			}
		}
	case "patternProperties":
		schemas, ok := arg.(map[string]any)
		if !ok {
			return misused(word)
		}
		names := slices.Sorted(maps.Keys(o))
		for _, key := range slices.Sorted(maps.Keys(schemas)) {
			p, err := c.pattern(key)
			if err != nil {
				return err
			}
			for _, name := range names {
				if err := c.spend(1); err != nil {
					return err
				}
				if !p.MatchString(name) {
					continue
				}
				if err := c.check(schemas[key], o[name], at+"."+name, depth+1); err != nil {
					return err
				}
			}
		}
	case "additionalProperties":
		known, _ := m["properties"].(map[string]any)
		patterns, _ := m["patternProperties"].(map[string]any)
	members:
		for _, name := range slices.Sorted(maps.Keys(o)) {
			if _, ok := known[name]; ok {
				continue
			}
			for key := range patterns {
				if err := c.spend(1); err != nil {
					return err
				}
				if p, err := c.pattern(key); err != nil || p.MatchString(name) {
					continue members // one that cannot be read is told of by patternProperties
				}
			}
			if err := c.check(arg, o[name], at+"."+name, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *checker) array(word string, m map[string]any, list []any, at string, depth int) error {
	arg := m[word]
	first, _ := m["prefixItems"].([]any)
	switch word {
	case "minItems", "maxItems":
		return count(word, arg, len(list), at)
	case "prefixItems":
		if _, ok := arg.([]any); !ok {
			return misused(word)
		}
		for i := range min(len(first), len(list)) {
			if err := c.check(first[i], list[i], fmt.Sprintf("%s[%d]", at, i), depth+1); err != nil {
				return err
			}
		}
	case "items":
		for i := len(first); i < len(list); i++ {
			if err := c.check(arg, list[i], fmt.Sprintf("%s[%d]", at, i), depth+1); err != nil {
				return err
			}
		}
	case "uniqueItems":
		if arg != true {
			return nil
		}
		for i := range list {
			if err := c.spend(i); err != nil {
				return err
			}
			if slices.ContainsFunc(list[:i], func(other any) bool { return equal(list[i], other) }) {
				return wrong(at, "has an element twice")
			}
		}
	}
	return nil
}

func (c *checker) text(word string, arg any, text, at string) error {
	if word != "pattern" {
		return count(word, arg, utf8.RuneCountInString(text), at)
	}
	expr, ok := arg.(string)
	if !ok {
		return misused(word)
	}
	p, err := c.pattern(expr)
	if err != nil {
		return err
	}
	if !p.MatchString(text) {
		return wrong(at, "does not match %s", clip(expr))
	}
	return nil
}

// pattern compiles a regular expression. Go's take time in proportion to the text, whatever they are.
func (c *checker) pattern(expr string) (*regexp.Regexp, error) {
	if p := c.patterns[expr]; p != nil {
		return p, nil
	}
	if len(expr) > patternMax {
		return nil, &schemaError{"pattern is too long"}
	}
	if err := c.spend(len(expr)); err != nil {
		return nil, err
	}
	p, err := regexp.Compile(expr)
	if err != nil {
		return nil, &schemaError{"pattern is not one that is understood here"}
	}
	c.patterns[expr] = p
	return p, nil
}

// count checks a length against minX or maxX.
func count(word string, arg any, n int, at string) error {
	limit, ok := arg.(json.Number)
	if !ok {
		return misused(word)
	}
	if f := float(limit); strings.HasPrefix(word, "min") && float64(n) < f || strings.HasPrefix(word, "max") && float64(n) > f {
		return wrong(at, "has %d, against %s %s", n, word, clip(string(limit)))
	}
	return nil
}

// bound checks a number against a limit.
func bound(word string, arg any, f float64, at string) error {
	limit, ok := arg.(json.Number)
	if !ok {
		return misused(word)
	}
	l := float(limit)
	var holds bool
	switch word {
	case "minimum":
		holds = f >= l
	case "maximum":
		holds = f <= l
	case "exclusiveMinimum":
		holds = f > l
	case "exclusiveMaximum":
		holds = f < l
	case "multipleOf":
		if l <= 0 {
			return misused(word)
		}
		times := f / l
		holds = times == math.Trunc(times)
	}
	if !holds {
		return wrong(at, "is against %s %s", word, clip(string(limit)))
	}
	return nil
}

// texts returns a string, or the strings of a list.
func texts(v any) ([]string, bool) {
	if one, ok := v.(string); ok {
		return []string{one}, true
	}
	list, ok := v.([]any)
	out := make([]string, len(list))
	for i, e := range list {
		s, is := e.(string)
		if !is {
			return nil, false
		}
		out[i] = s
	}
	return out, ok
}

func isType(name string, v any) bool {
	switch x := v.(type) {
	case nil:
		return name == "null"
	case bool:
		return name == "boolean"
	case string:
		return name == "string"
	case []any:
		return name == "array"
	case map[string]any:
		return name == "object"
	case json.Number:
		f := float(x)
		return name == "number" || name == "integer" && f == math.Trunc(f) && !math.IsInf(f, 0)
	}
	return false
}
