package evm

// Contract ABI, as far as it takes to call token contracts and read what they answer, without go-ethereum.

// Selector returns the first four bytes of a call of a function, given as transfer(address,uint256).
func Selector(signature string) (s [4]byte) {
	h := Keccak256([]byte(signature))
	copy(s[:], h[:])
	return s
}

// Arg is a value of a call: see [WordArg], [BytesArg], [TupleArg] and [ListArg].
type Arg struct {
	static bool
	enc    []byte // of the value itself, without the offset that leads to one that is not static
}

// WordArg is any value of one word: an address, a number, a hash, a bool.
func WordArg(w [32]byte) Arg { return Arg{true, w[:]} }

// BytesArg is a value of type bytes or string.
func BytesArg(b []byte) Arg {
	length := WordUint64(uint64(len(b)))
	enc := append(length[:], b...)
	return Arg{false, append(enc, make([]byte, -len(b)&31)...)}
}

// TupleArg is a struct.
func TupleArg(members ...Arg) Arg {
	static := true
	for _, m := range members {
		static = static && m.static
	}
	return Arg{static, encode(nil, members)}
}

// ListArg is an array of any length.
func ListArg(items ...Arg) Arg {
	length := WordUint64(uint64(len(items)))
	return Arg{false, encode(length[:], items)}
}

// EncodeCall returns a call's data.
func EncodeCall(selector [4]byte, args ...Arg) []byte { return encode(selector[:], args) }

// EncodeArgs returns values as abi.encode does.
func EncodeArgs(args ...Arg) []byte { return encode(nil, args) }

// encode appends values: those that are static in place, the others behind them with offsets in their places.
func encode(to []byte, args []Arg) []byte {
	head := 0
	for _, a := range args {
		if a.static {
			head += len(a.enc)
		} else {
			head += 32
		}
	}
	out := append(make([]byte, 0, len(to)+2*head), to...)
	behind := head
	for _, a := range args {
		if a.static {
			out = append(out, a.enc...)
			continue
		}
		offset := WordUint64(uint64(behind))
		out = append(out, offset[:]...)
		behind += len(a.enc)
	}
	for _, a := range args {
		if !a.static {
			out = append(out, a.enc...)
		}
	}
	return out
}

// ABI is encoded values, such as a contract's answer. Its methods report false for what is not there: whoever answers may
// not be the contract that was meant.
type ABI []byte

// Word returns the word with an index.
func (b ABI) Word(i int) (w [32]byte, ok bool) {
	if i < 0 || i >= len(b)/32 {
		return w, false
	}
	return [32]byte(b[32*i:]), true
}

// Uint64 returns a word that is a number of at most 64 bits.
func (b ABI) Uint64(i int) (uint64, bool) {
	w, ok := b.Word(i)
	if !ok || [24]byte(w[:24]) != [24]byte{} {
		return 0, false
	}
	var v uint64
	for _, c := range w[24:] {
		v = v<<8 | uint64(c)
	}
	return v, true
}

// Bool returns a word that is 0 or 1.
func (b ABI) Bool(i int) (value, ok bool) {
	v, ok := b.Uint64(i)
	return v == 1, ok && v < 2
}

// Address returns a word that is an address.
func (b ABI) Address(i int) (a Address, ok bool) {
	w, ok := b.Word(i)
	if !ok || [12]byte(w[:12]) != [12]byte{} {
		return a, false
	}
	return Address(w[12:]), true
}

// Tail returns what the offset in a word leads to.
func (b ABI) Tail(i int) (ABI, bool) {
	offset, ok := b.Uint64(i)
	if !ok || offset > uint64(len(b)) {
		return nil, false
	}
	return b[offset:], true
}

// Bytes returns the bytes, or the text, that the offset in a word leads to.
func (b ABI) Bytes(i int) ([]byte, bool) {
	tail, ok := b.Tail(i)
	if !ok {
		return nil, false
	}
	length, ok := tail.Uint64(0)
	if !ok || length > uint64(len(tail)-32) {
		return nil, false
	}
	return tail[32 : 32+length], true
}

// List returns an array's content, whose words and offsets count from its beginning, and its length.
func (b ABI) List(i int) (content ABI, length int, ok bool) {
	tail, ok := b.Tail(i)
	if !ok {
		return nil, 0, false
	}
	n, ok := tail.Uint64(0)
	if !ok || n > uint64(len(tail)-32)/32 {
		return nil, 0, false
	}
	return tail[32:], int(n), true
}
