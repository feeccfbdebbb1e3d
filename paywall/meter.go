package paywall

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Exchange is a request and its answer, as a [Meter] sees them when the handler is done.
type Exchange struct {
	Request  *http.Request
	BytesIn  uint64 // of the request's body
	BytesOut uint64 // of the answer's body
	Elapsed  time.Duration
	Status   int
	Header   http.Header // the answer's
	Body     []byte      // the answer's first bytes, as many as are kept
	Whole    bool        // Body is all of it
}

// Meter counts the units that an exchange used. An error means that nobody knows: the purchase is then void.
// Implementations are safe for concurrent use.
type Meter interface {
	Measure(Exchange) (uint64, error)
}

// MeterFunc is a function as a [Meter].
type MeterFunc func(Exchange) (uint64, error)

// Measure implements [Meter].
func (f MeterFunc) Measure(e Exchange) (uint64, error) { return f(e) }

// PerCall counts every exchange as one.
func PerCall() Meter { return MeterFunc(func(Exchange) (uint64, error) { return 1, nil }) }

// BytesIn counts the bytes of the request's body.
func BytesIn() Meter { return MeterFunc(func(e Exchange) (uint64, error) { return e.BytesIn, nil }) }

// BytesOut counts the bytes of the answer's body.
func BytesOut() Meter { return MeterFunc(func(e Exchange) (uint64, error) { return e.BytesOut, nil }) }

// Seconds counts started seconds from the handler's start to its end.
func Seconds() Meter {
	return MeterFunc(func(e Exchange) (uint64, error) {
		return uint64((max(e.Elapsed, 0) + time.Second - 1) / time.Second), nil
	})
}

// HeaderCount reads the count from a header of the answer.
func HeaderCount(name string) Meter {
	return MeterFunc(func(e Exchange) (uint64, error) {
		values := e.Header.Values(name)
		if len(values) != 1 {
			return 0, fmt.Errorf("header %s: %d of them, want one", name, len(values))
		}
		n, err := strconv.ParseUint(strings.TrimSpace(values[0]), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("header %s: %q is no count", name, clip(values[0]))
		}
		return n, nil
	})
}

// JSONCount reads the count from a member of the answer's JSON body, by names and list indexes separated by dots:
// usage.total_tokens, items.0.count. In a text/event-stream it is the last event whose data has the member. Bodies may be
// compressed with gzip.
func JSONCount(path string) Meter {
	steps := strings.Split(path, ".")
	return MeterFunc(func(e Exchange) (uint64, error) {
		if !e.Whole {
			return 0, fmt.Errorf("json %s: the answer is larger than what is kept", path)
		}
		var err error
		if e.Body, err = plain(e.Header.Get("Content-Encoding"), e.Body); err != nil {
			return 0, fmt.Errorf("json %s: %w", path, err)
		}
		if strings.HasPrefix(e.Header.Get("Content-Type"), "text/event-stream") {
			lines := bytes.Split(e.Body, []byte("\n"))
			for i := len(lines) - 1; i >= 0; i-- {
				if data, ok := bytes.CutPrefix(lines[i], []byte("data:")); ok {
					if n, err := countAt(data, steps); err == nil {
						return n, nil
					}
				}
			}
			return 0, fmt.Errorf("json %s: no event has it", path)
		}
		n, err := countAt(e.Body, steps)
		if err != nil {
			return 0, fmt.Errorf("json %s: %w", path, err)
		}
		return n, nil
	})
}

// plainBytesMax bounds what is unpacked of an answer in search of a count.
const plainBytesMax = 16 << 20

func plain(encoding string, body []byte) ([]byte, error) {
	switch encoding {
	case "", "identity":
		return body, nil
	case "gzip":
		r, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		out, err := io.ReadAll(io.LimitReader(r, plainBytesMax+1))
		if err == nil && len(out) > plainBytesMax {
			err = errors.New("the answer is too large when unpacked")
		}
		return out, err
	}
	return nil, fmt.Errorf("cannot read encoding %q", clip(encoding))
}

func countAt(body []byte, steps []string) (uint64, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return 0, errors.New("the answer is not JSON")
	}
	for _, s := range steps {
		switch in := v.(type) {
		case map[string]any:
			v = in[s]
		case []any:
			i, err := strconv.Atoi(s)
			if err != nil || i < 0 || i >= len(in) {
				return 0, fmt.Errorf("no member %q", clip(s))
			}
			v = in[i]
		default:
			v = nil
		}
		if v == nil {
			return 0, fmt.Errorf("no member %q", clip(s))
		}
	}
	number, ok := v.(json.Number)
	if !ok {
		return 0, errors.New("not a number")
	}
	n, err := strconv.ParseUint(number.String(), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is no count", clip(number.String()))
	}
	return n, nil
}

// ParseMeter reads a meter as it is written in a configuration file: "calls", "bytes in", "bytes out", "seconds",
// "header NAME", "json PATH".
func ParseMeter(text string) (Meter, error) {
	word, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
	rest = strings.TrimSpace(rest)
	switch {
	case word == "calls" && rest == "":
		return PerCall(), nil
	case word == "bytes" && rest == "in":
		return BytesIn(), nil
	case word == "bytes" && rest == "out":
		return BytesOut(), nil
	case word == "seconds" && rest == "":
		return Seconds(), nil
	case word == "header" && rest != "" && !strings.ContainsAny(rest, " \t:"):
		return HeaderCount(rest), nil
	case word == "json" && rest != "" && !strings.ContainsAny(rest, " \t"):
		return JSONCount(rest), nil
	}
	return nil, fmt.Errorf("count %q: not calls, bytes in, bytes out, seconds, header NAME or json PATH", clip(text))
}

func clip(s string) string { return clipTo(s, 80) }

func clipTo(s string, most int) string {
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
