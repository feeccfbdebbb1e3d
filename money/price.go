package money

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// textMax bounds what a price or a sum is parsed from, in characters.
const textMax = 120

// Kind names what a unit counts. Any other lower-case word is a seller's own unit, such as image: it is counted in ones.
type Kind string

// The kinds that farthing can count itself.
const (
	Call   Kind = "call"   // one request
	Token  Kind = "token"  // of a language model, not of a chain
	Record Kind = "record" // row, item, line
	Second Kind = "second" // of work; minute and hour are 60 and 3600 of them
	Byte   Kind = "byte"   // of a body
)

// Direction says which body's bytes are counted.
type Direction string

// The two directions; every other unit has none.
const (
	In  Direction = "in"  // the request's body
	Out Direction = "out" // the answer's body
)

// Unit is what a price is per.
type Unit struct {
	Kind      Kind
	Size      uint64 // how many of what is measured make one unit: 1, or 10^6 bytes for MB, 2^20 for MiB, 60 seconds for minute
	Direction Direction
}

// sized names the units that are more than one of what they count. MB is 10^6 bytes and MiB 2^20.
var sized = []struct {
	word string
	kind Kind
	size uint64
}{
	{"kB", Byte, 1e3}, {"MB", Byte, 1e6}, {"GB", Byte, 1e9},
	{"KiB", Byte, 1 << 10}, {"MiB", Byte, 1 << 20}, {"GiB", Byte, 1 << 30},
	{"minute", Second, 60}, {"hour", Second, 3600},
}

// word returns the unit's name for n of them, without its direction.
func (u Unit) word(n uint64) string {
	name := string(u.Kind)
	for _, s := range sized {
		if s.kind == u.Kind && s.size == u.Size {
			name = s.word
		}
	}
	switch u.Kind {
	case Call, Token, Record, Second:
		return plural(name, n)
	case Byte:
		if u.Size == 1 {
			return plural(name, n)
		}
	}
	return name // MB, and a seller's own word, are written alike for one and many
}

func plural(word string, n uint64) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// Price is what a seller asks: so much money per so many units. The zero value is free.
type Price struct {
	Money        // the money asked for Per units
	Per   uint64 // at least 1 unless free
	Unit  Unit
}

// Free reports whether nothing is asked.
func (p Price) Free() bool { return p.Value.IsZero() }

// String returns the price in its one canonical form, which parses back to the same price: free, $0.0005,
// $0.01 per 100 records, 0.001 USDC per MiB out.
func (p Price) String() string {
	if p.Free() {
		return "free"
	}
	s := p.Money.String()
	if p.Unit == (Unit{Kind: Call, Size: 1}) && p.Per == 1 {
		return s
	}
	s += " per "
	if p.Per != 1 {
		s += strconv.FormatUint(p.Per, 10) + " "
	}
	s += p.Unit.word(p.Per)
	if p.Unit.Direction != "" {
		s += " " + string(p.Unit.Direction)
	}
	return s
}

// MarshalText implements encoding.TextMarshaler with the canonical form.
func (p Price) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParsePrice.
func (p *Price) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePrice(string(text))
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (m Money) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParseMoney.
func (m *Money) UnmarshalText(text []byte) (err error) {
	*m, err = ParseMoney(string(text))
	return err
}

// PriceError says where a price or a sum goes wrong.
type PriceError struct {
	Text    string
	Column  int    // of the faulty character in Text, counted in characters from 1
	Problem string // goes after the quoted text: is below one unit of USDC ($0.000001)
	Hint    string // what to write instead; may be empty
}

func (e *PriceError) Error() string { return strconv.Quote(clip(e.Text)) + " " + e.Problem }

// ParsePrice reads a price: money (see [ParseMoney]), then optionally "per", a count, a unit, and for bytes a direction.
//
//	free · 0 · $0.0005 · $0.0005 per call · 0.001 USDC · $0.00001 per token · $0.01 per 100 records
//	$0.01 per second · $0.05 per minute · $0.001 per MB in · $0.001 per MiB out · $0.02 per image
//
// Bytes are counted by the byte, kB, MB, GB (powers of 1000) and KiB, MiB, GiB (powers of 1024), and always say in or out.
// Errors are of type [*PriceError].
func ParsePrice(text string) (Price, error) {
	p, err := newParser(text)
	if err != nil {
		return Price{}, err
	}
	if first, only := p.peek(), len(p.fields) == 1; only && (strings.EqualFold(first.text, "free") || first.text == "0") {
		return Price{}, nil
	}
	m, err := p.money("free, $0.0005, or $0.01 per 100 records")
	if err != nil {
		return Price{}, err
	}
	price := Price{Money: m, Per: 1, Unit: Unit{Kind: Call, Size: 1}}
	if !p.done() {
		if price.Per, price.Unit, err = p.per(); err != nil {
			return Price{}, err
		}
	}
	if price.Free() {
		return Price{}, nil
	}
	return price, nil
}

// ParseMoney reads a sum with its currency: $0.01, or 2.5 USDC. Digits are exact; there is no sign, exponent or
// thousands mark. Errors are of type [*PriceError].
func ParseMoney(text string) (Money, error) {
	p, err := newParser(text)
	if err != nil {
		return Money{}, err
	}
	m, err := p.money("$0.01, or 0.01 USDC")
	if err != nil {
		return Money{}, err
	}
	if !p.done() {
		f := p.peek()
		return Money{}, p.fail(f.column, "has more after the sum: "+strconv.Quote(f.text), "write only the sum, such as "+m.String())
	}
	return m, nil
}

// field is a run of characters without spaces.
type field struct {
	text   string
	column int // of its first character, from 1
}

type parser struct {
	text   string
	fields []field
	next   int
}

func newParser(text string) (*parser, error) {
	p := &parser{text: text}
	if utf8.RuneCountInString(text) > textMax {
		return nil, p.fail(textMax+1, "is too long for a price", "")
	}
	if !utf8.ValidString(text) {
		return nil, p.fail(utf8.RuneCountInString(text[:firstInvalid(text)])+1, "is not UTF-8 text", "")
	}
	column, start, startColumn := 0, -1, 0
	for i, c := range text {
		column++
		switch space := c == ' ' || c == '\t'; {
		case space && start >= 0:
			p.fields, start = append(p.fields, field{text[start:i], startColumn}), -1
		case !space && start < 0:
			start, startColumn = i, column
		}
	}
	if start >= 0 {
		p.fields = append(p.fields, field{text[start:], startColumn})
	}
	return p, nil
}

func firstInvalid(s string) int {
	for i, c := range s {
		if c == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return i
			}
		}
	}
	return len(s)
}

func (p *parser) done() bool { return p.next == len(p.fields) }

// peek returns the next field, or an empty one behind the end of the text.
func (p *parser) peek() field {
	if p.done() {
		return field{"", utf8.RuneCountInString(p.text) + 1}
	}
	return p.fields[p.next]
}

func (p *parser) take() field {
	f := p.peek()
	if !p.done() {
		p.next++
	}
	return f
}

func (p *parser) fail(column int, problem, hint string) *PriceError {
	return &PriceError{Text: p.text, Column: column, Problem: problem, Hint: hint}
}

// money reads $1.50 or 1.50 USDC.
func (p *parser) money(example string) (Money, error) {
	f := p.take()
	if f.text == "" {
		return Money{}, p.fail(f.column, "is empty", "write "+example)
	}
	if digits, dollar := strings.CutPrefix(f.text, "$"); dollar {
		value, err := p.decimal(field{digits, f.column + 1})
		return Money{value, "$"}, err
	}
	if first, _ := utf8.DecodeRuneInString(f.text); first < '0' || first > '9' {
		return Money{}, p.fail(f.column, "does not begin with $ or a number", "write "+example)
	}
	value, err := p.decimal(f)
	if err != nil {
		return Money{}, err
	}
	if s := p.peek(); s.text == "" || s.text == "per" {
		return Money{}, p.fail(s.column, "has no currency", "write $"+f.text+", or "+f.text+" USDC")
	}
	s := p.take()
	column := s.column
	for _, c := range s.text {
		if !unicode.IsLetter(c) && (column == s.column || !unicode.IsDigit(c) && !strings.ContainsRune(".-_₮", c)) || column-s.column >= 20 {
			return Money{}, p.fail(column, "names no token by "+strconv.Quote(s.text), "write $"+f.text+", or "+f.text+" USDC")
		}
		column++
	}
	return Money{value, s.text}, nil
}

// decimal reads digits with at most one point between them.
func (p *parser) decimal(f field) (Decimal, error) {
	if f.text == "" {
		return Decimal{}, p.fail(f.column, "has no number after $", "write $0.01")
	}
	digits, point := make([]byte, 0, len(f.text)), -1
	column := f.column
	for i, c := range f.text {
		switch {
		case c >= '0' && c <= '9':
			digits = append(digits, byte(c))
		case c == '.' && point < 0 && i > 0 && i < len(f.text)-1:
			point = len(digits)
		case c == '.' && point < 0 && i == 0 && len(f.text) > 1:
			return Decimal{}, p.fail(column, "has no digit before the point", "write 0"+f.text)
		case c == '.':
			return Decimal{}, p.fail(column, "has a point that ends no number", "write 0.01")
		case c == ',':
			return Decimal{}, p.fail(column, "has a comma in a number", "write the decimals after a point, and no thousands mark")
		case c == '/':
			return Decimal{}, p.fail(column, `has "/" in a number`, "write "+f.text[:i]+" per call")
		case c == '-':
			return Decimal{}, p.fail(column, "has a sign", "nothing costs less than nothing")
		default:
			return Decimal{}, p.fail(column, "has "+strconv.Quote(string(c))+" in a number", "write digits, such as $0.01")
		}
		column++
	}
	scale := 0
	if point >= 0 {
		scale = len(digits) - point
	}
	if scale > scaleMax {
		return Decimal{}, p.fail(f.column, fmt.Sprintf("has more than %d decimals", scaleMax), "")
	}
	coefficient, err := ParseAmount(string(digits))
	if err != nil {
		return Decimal{}, p.fail(f.column, "is too large", "")
	}
	return newDecimal(coefficient, uint8(scale)), nil
}

// per reads what follows the money.
func (p *parser) per() (uint64, Unit, error) {
	f := p.take()
	if f.text != "per" {
		return 0, Unit{}, p.fail(f.column, "has "+strconv.Quote(f.text)+" where per is expected", "write $0.01 per 100 records")
	}
	n := uint64(1)
	if f = p.peek(); f.text != "" && f.text[0] >= '0' && f.text[0] <= '9' {
		count, err := strconv.ParseUint(f.text, 10, 64)
		if err != nil || count == 0 || count > 1e15 {
			return 0, Unit{}, p.fail(f.column, "has "+strconv.Quote(f.text)+" where a count is expected", "write a whole number from 1, such as per 100 records")
		}
		n = count
		p.take()
	}
	f = p.take()
	unit, err := p.unit(f)
	if err != nil {
		return 0, Unit{}, err
	}
	if n > (1<<63)/unit.Size {
		return 0, Unit{}, p.fail(f.column, "is per more units than can be counted", "")
	}
	d := p.take()
	switch {
	case unit.Kind == Byte && (d.text == "in" || d.text == "out"):
		unit.Direction = Direction(d.text)
	case unit.Kind == Byte:
		return 0, Unit{}, p.fail(d.column, "does not say which way the bytes go", "write "+f.text+" in (the request) or "+f.text+" out (the answer)")
	case d.text != "":
		return 0, Unit{}, p.fail(d.column, "has more after the unit: "+strconv.Quote(d.text), "in and out are for bytes, kB, MB, GB, KiB, MiB and GiB")
	}
	if !p.done() {
		extra := p.peek()
		return 0, Unit{}, p.fail(extra.column, "has more after the price: "+strconv.Quote(extra.text), "")
	}
	return n, unit, nil
}

func (p *parser) unit(f field) (Unit, error) {
	if f.text == "" || f.text == "in" || f.text == "out" {
		return Unit{}, p.fail(f.column, "does not say per what", "write per call, per 100 records, or per MB out")
	}
	word := f.text
	for _, s := range sized {
		if word == s.word || s.kind != Byte && word == s.word+"s" {
			return Unit{Kind: s.kind, Size: s.size}, nil
		}
	}
	for _, k := range []Kind{Call, Token, Record, Second, Byte} {
		if word == string(k) || word == string(k)+"s" {
			return Unit{Kind: k, Size: 1}, nil
		}
	}
	for _, s := range sized {
		if s.kind == Byte && strings.EqualFold(word, s.word) {
			return Unit{}, p.fail(f.column, "has a unit that could be misread: "+strconv.Quote(word), "write "+s.word+": "+strconv.FormatUint(s.size, 10)+" bytes")
		}
	}
	column := f.column
	for _, c := range word {
		if (c < 'a' || c > 'z') && (column == f.column || c != '-' && c != '_') || column-f.column >= 32 {
			return Unit{}, p.fail(column, "names no unit by "+strconv.Quote(word), "write call, token, record, second, MB in, MB out, or a lower-case word of your own")
		}
		column++
	}
	return Unit{Kind: Kind(word), Size: 1}, nil
}
