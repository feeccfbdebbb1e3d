package network

import "github.com/farthing402/farthing/evm"

// known ships with the program. Addresses and domains are those of x402's packages where they have the chain, otherwise
// of the token's issuer; all are compared with the chain before money moves.
var known = func() Registry {
	usdc := func(address, name string) Token {
		return Token{Symbol: "USDC", Address: evm.MustAddress(address), Decimals: 6, Name: name, Version: "2", EIP3009: true, EIP2612: true, Dollar: true}
	}
	r := Registry{}
	for _, c := range []Chain{
		{ID: 31337, Name: "dev", Also: []string{"devchain"}, Native: "ETH", Test: true, Depth: 1,
			Tokens: []Token{usdc("0xFA12000000000000000000000000000000000001", "Test Dollar")}},
		{ID: 8453, Name: "base", V1Name: "base", Native: "ETH", Depth: 20,
			Tokens: []Token{usdc("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "USD Coin")}},
		{ID: 84532, Name: "base-sepolia", V1Name: "base-sepolia", Native: "ETH", Test: true, Depth: 5,
			Tokens: []Token{usdc("0x036CbD53842c5426634e7929541eC2318f3dCF7e", "USDC")}},
		{ID: 42161, Name: "arbitrum", Also: []string{"arbitrum-one"}, Native: "ETH", Depth: 60,
			Tokens: []Token{usdc("0xaf88d065e77c8cC2239327C5EDb3A432268e5831", "USD Coin")}},
		{ID: 421614, Name: "arbitrum-sepolia", Native: "ETH", Test: true, Depth: 20,
			Tokens: []Token{usdc("0x75faf114eafb1BDbe2F0316DF893fd58CE46AA4d", "USD Coin")}},
		{ID: 10, Name: "optimism", Also: []string{"op-mainnet"}, Native: "ETH", Depth: 20,
			Tokens: []Token{usdc("0x0b2C639c533813f4Aa9D7837CAf62653d097Ff85", "USD Coin")}},
		{ID: 11155420, Name: "optimism-sepolia", Also: []string{"op-sepolia"}, Native: "ETH", Test: true, Depth: 5,
			Tokens: []Token{usdc("0x5fd84259d66Cd46123540766Be93DFE6D43130D7", "USDC")}},
		{ID: 1, Name: "ethereum", V1Name: "ethereum", Also: []string{"mainnet"}, Native: "ETH", Depth: 12,
			Tokens: []Token{usdc("0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48", "USD Coin")}},
		{ID: 11155111, Name: "sepolia", V1Name: "sepolia", Also: []string{"ethereum-sepolia"}, Native: "ETH", Test: true, Depth: 5,
			Tokens: []Token{usdc("0x1c7D4B196Cb0C7B01d743Fbc6116a902379C7238", "USDC")}},
		{ID: 137, Name: "polygon", V1Name: "polygon", Native: "POL", Depth: 30,
			Tokens: []Token{usdc("0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359", "USD Coin")}},
		{ID: 80002, Name: "polygon-amoy", V1Name: "polygon-amoy", Native: "POL", Test: true, Depth: 10,
			Tokens: []Token{usdc("0x41E94Eb019C0762f9Bfcf9Fb1E58725BfB0e7582", "USDC")}},
	} {
		if err := r.Add(c); err != nil {
			panic(err) // the table above is wrong
		}
	}
	return r
}()
