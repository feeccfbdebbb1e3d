package evm

// BlockRef names a block and the one that it follows.
type BlockRef struct {
	Number uint64
	Hash   Hash
	Parent Hash
	Time   uint64 // Unix seconds
	// GasLimit is what the block's transactions could use together; 0 where it was not asked for.
	GasLimit uint64
}

// Log is an event that a contract emitted, in the block that a [BlockRef] beside it names.
type Log struct {
	Address Address
	Topics  []Hash // the first is the event's signature
	Data    []byte
	TxHash  Hash
	Index   uint // position in the block
}
