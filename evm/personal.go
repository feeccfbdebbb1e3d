package evm

import "strconv"

// HashPersonal returns what wallets sign for a message of any bytes (EIP-191, version 0x45).
func HashPersonal(message []byte) Hash {
	return Keccak256([]byte("\x19Ethereum Signed Message:\n"+strconv.Itoa(len(message))), message)
}
