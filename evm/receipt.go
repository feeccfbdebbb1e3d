package evm

// TxReceipt is a transaction that a block holds, with everything that its contracts emitted.
type TxReceipt struct {
	CallReceipt
	From, To   Address
	Logs       []Log    // in order
	DataFeeWei [32]byte // paid for the transaction's data besides its gas, on rollups that say so; big-endian
}
