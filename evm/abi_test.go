package evm

import (
	"bytes"
	"math/big"
	"testing"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"
)

func TestSelector(t *testing.T) {
	t.Parallel()
	if got := Selector("transfer(address,uint256)"); got != [4]byte{0xa9, 0x05, 0x9c, 0xbb} {
		t.Errorf("%x", got)
	}
}

// What we write is what go-ethereum writes, for every shape that is used: words, bytes, tuples with and without something
// dynamic inside, lists of tuples.
func TestEncodeAsGoEthereum(t *testing.T) {
	t.Parallel()
	kind := func(name string, components ...abi.ArgumentMarshaling) abi.Argument {
		typ, err := abi.NewType(name, "", components)
		if err != nil {
			t.Fatal(err)
		}
		return abi.Argument{Type: typ}
	}
	type pair struct {
		A common.Address
		B *big.Int
	}
	type call struct {
		To   common.Address
		Data []byte
	}
	address, number := Address{1, 2, 3, 19: 9}, WordUint64(1<<40+7)
	static := []abi.ArgumentMarshaling{{Name: "a", Type: "address"}, {Name: "b", Type: "uint256"}}
	dynamic := []abi.ArgumentMarshaling{{Name: "to", Type: "address"}, {Name: "data", Type: "bytes"}}
	n := new(big.Int).SetBytes(number[:])
	for _, size := range []int{0, 1, 31, 32, 33, 65, 300} {
		data := bytes.Repeat([]byte{0xab}, size)
		want, err := abi.Arguments{
			kind("uint256"), kind("bytes"), kind("tuple", static...), kind("tuple", dynamic...), kind("tuple[]", dynamic...), kind("address"), kind("tuple[]", static...), kind("string"),
		}.Pack(n, data, pair{common.Address(address), n}, call{common.Address(address), data},
			[]call{{common.Address(address), data}, {common.Address{}, nil}}, common.Address(address), []pair{{common.Address(address), n}}, "text")
		if err != nil {
			t.Fatal(err)
		}
		tuple := TupleArg(WordArg(address.Word()), WordArg(number))
		one := TupleArg(WordArg(address.Word()), BytesArg(data))
		got := EncodeArgs(WordArg(number), BytesArg(data), tuple, one,
			ListArg(one, TupleArg(WordArg([32]byte{}), BytesArg(nil))), WordArg(address.Word()), ListArg(tuple), BytesArg([]byte("text")))
		if !bytes.Equal(got, want) {
			t.Fatalf("with %d bytes:\n%x\nwant\n%x", size, got, want)
		}
		if with := EncodeCall([4]byte{1, 2, 3, 4}, one); !bytes.Equal(with[4:], EncodeArgs(one)) || [4]byte(with) != [4]byte{1, 2, 3, 4} {
			t.Errorf("a call is %x", with)
		}
		// And reads back.
		b := ABI(got)
		if v, ok := b.Uint64(0); !ok || v != 1<<40+7 {
			t.Errorf("number %d, %v", v, ok)
		}
		if v, ok := b.Bytes(1); !ok || !bytes.Equal(v, data) {
			t.Errorf("bytes %x, %v", v, ok)
		}
		if v, ok := b.Address(2); !ok || v != address {
			t.Errorf("address %s, %v", v, ok)
		}
		list, length, ok := b.List(5)
		if !ok || length != 2 {
			t.Fatalf("list of %d, %v", length, ok)
		}
		item, ok := list.Tail(0)
		if v, ok2 := item.Bytes(1); !ok || !ok2 || !bytes.Equal(v, data) {
			t.Errorf("bytes in a list %x, %v", v, ok)
		}
	}
}

func TestABIRefusesWhatIsNotThere(t *testing.T) {
	t.Parallel()
	word := func(v uint64) []byte { w := WordUint64(v); return w[:] }
	huge := bytes.Repeat([]byte{0xff}, 32)
	for name, b := range map[string]ABI{
		"nothing": nil, "half a word": make([]byte, 31), "offset past the end": word(33), "huge offset": huge,
		"length past the end": append(word(32), word(1)...), "huge length": append(word(32), huge...),
		"offset to the end": word(32), "offset into the last word": append(word(33), make([]byte, 31)...),
	} {
		if v, ok := b.Bytes(0); ok {
			t.Errorf("%s is read as bytes %x", name, v)
		}
		if _, n, ok := b.List(0); ok {
			t.Errorf("%s is read as a list of %d", name, n)
		}
	}
	if _, ok := ABI(huge).Uint64(0); ok {
		t.Error("a large number is read")
	}
	if _, ok := ABI(huge).Address(0); ok {
		t.Error("a large number is read as an address")
	}
	if _, ok := ABI(word(2)).Bool(0); ok {
		t.Error("2 is read as a bool")
	}
	for v, want := range map[uint64]bool{0: false, 1: true} {
		if got, ok := ABI(word(v)).Bool(0); !ok || got != want {
			t.Errorf("%d is read as %v, %v", v, got, ok)
		}
	}
	for _, i := range []int{-1, 1, 1 << 60} {
		if _, ok := ABI(word(1)).Word(i); ok {
			t.Errorf("word %d of one", i)
		}
	}
}

func FuzzABI(f *testing.F) {
	f.Add(EncodeArgs(WordArg([32]byte{}), BytesArg([]byte("abc")), ListArg(TupleArg(WordArg([32]byte{}), BytesArg([]byte("x"))))), 1)
	f.Add(bytes.Repeat([]byte{0xff}, 96), 0)
	f.Fuzz(func(t *testing.T, b []byte, i int) {
		if v, ok := ABI(b).Bytes(i); ok && len(v) > len(b) {
			t.Errorf("%d bytes out of %d", len(v), len(b))
		}
		list, n, ok := ABI(b).List(i)
		if ok && n > len(b)/32 {
			t.Errorf("a list of %d in %d bytes", n, len(b))
		}
		if item, ok := list.Tail(i); ok {
			_, _ = item.Bool(0)
			_, _ = item.Bytes(1)
			_, _ = item.Address(i)
		}
	})
}
