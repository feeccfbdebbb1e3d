package chain

import (
	"errors"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/devchain"
)

func TestValidations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.demoConfig(key(0).Address())
	c.Registry = true
	d := w.plan(c)
	if err := d.Execute(t.Context(), w.client, w.run(key(0))); err != nil {
		t.Fatal(err)
	}
	validator, agent := key(3), evm.Hash{31: 42}
	question := func(n byte) Question { return Question{d.Registry, evm.Hash{31: n}} }
	said := func(at evm.BlockRef, ask ...Question) []Validation {
		t.Helper()
		list, err := w.client.Validations(t.Context(), at.Hash, ask)
		if err != nil || len(list) != len(ask) {
			t.Fatalf("%d answers, %v", len(list), err)
		}
		return list
	}
	head := func() evm.BlockRef {
		t.Helper()
		b, err := w.client.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	before := head()
	w.send(key(1), RequestValidation(question(1), validator.Address(), agent), RequestValidation(question(2), validator.Address(), agent))
	asked := head()
	w.send(validator, AnswerValidation(question(1), 80, "hard-finality"))
	first := head()
	w.send(validator, AnswerValidation(question(1), 30, ""))
	second := head()

	if got := said(before, question(1))[0]; got != (Validation{}) {
		t.Errorf("before it was asked: %+v", got)
	}
	if got := said(asked, question(1))[0]; got.LastUpdate != 0 || got.Validator != validator.Address() {
		t.Errorf("before it was answered: %+v", got)
	}
	want := Validation{validator.Address(), agent, 80, "hard-finality", first.Time}
	if got := said(first, question(1))[0]; got != want {
		t.Errorf("answered: %+v, want %+v", got, want)
	}
	want = Validation{validator.Address(), agent, 30, "", second.Time}
	if got := said(second, question(1))[0]; got != want {
		t.Errorf("answered again: %+v, want %+v", got, want)
	}

	// More questions than go into one request, to registries and to what is none: each answer stands at its place.
	var ask []Question
	for n := range 3*questionsAtOnce + 1 {
		ask = append(ask, []Question{question(1), question(9), {devchain.TestDollar, evm.Hash{1}}, {key(5).Address(), evm.Hash{1}}}[n%4])
	}
	for n, got := range said(second, ask...) {
		if (n%4 == 0) != (got == want) || n%4 != 0 && got != (Validation{}) {
			t.Errorf("question %d: %+v", n, got)
		}
	}

	// A block that is none has no answers.
	if _, err := w.client.Validations(t.Context(), evm.Hash{1}, []Question{question(1)}); err == nil {
		t.Error("a block that nobody has was asked")
	}

	for name, c := range map[string]struct {
		from *evm.PrivateKey
		call evm.Call
		want string
	}{
		"an answer of somebody else": {key(4), AnswerValidation(question(1), 80, ""), "ValidatorInvalid()"},
		"an answer nobody asked for": {validator, AnswerValidation(question(9), 80, ""), "RequestUnknown()"},
		"more than all":              {validator, AnswerValidation(question(2), 101, ""), "ResponseInvalid()"},
		"asked twice":                {key(4), RequestValidation(question(2), key(4).Address(), agent), "RequestExists()"},
		"nobody asked":               {key(4), RequestValidation(question(9), evm.Address{}, agent), "ValidatorInvalid()"},
	} {
		_, err := w.client.Read(t.Context(), c.from.Address(), c.call.To, c.call.Data)
		var refused *RevertError
		if !errors.As(err, &refused) || refused.Reason != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

// Whatever a contract returns is an answer or none, never a panic.
func TestOddValidations(t *testing.T) {
	t.Parallel()
	word := func(v uint64) []byte { w := evm.WordUint64(v); return w[:] }
	join := func(words ...[]byte) (b []byte) {
		for _, w := range words {
			b = append(b, w...)
		}
		return b
	}
	for name, b := range map[string][]byte{
		"nothing":       nil,
		"cut off":       join(word(1), word(2), word(3)),
		"tag far away":  join(word(1), word(2), word(3), word(4), word(1<<63), word(6)),
		"tag too long":  join(word(1), word(2), word(3), word(4), word(192), word(6), word(1<<62)),
		"score 256":     join(word(1), word(2), word(256), word(4), word(192), word(6), word(0)),
		"time too late": join(word(1), word(2), word(3), word(4), word(192), append([]byte{1}, make([]byte, 31)...), word(0)),
		"no address":    join(append([]byte{1}, make([]byte, 31)...), word(2), word(3), word(4), word(192), word(6), word(0)),
	} {
		if got := validationOf(b); got != (Validation{}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
