// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// A registry of validators' answers for development chains, with the calls, events and views of ERC-8004's validation
/// registry that guarantees of version 2 depend on. It knows no identities: anybody may ask, about any agent, and who asks
/// first under a hash says which validator answers.
contract ValidationRegistry {
    struct Status {
        address validator;
        uint8 response;
        uint64 lastUpdate; // zero while there is no answer
        uint256 agentId;
        bytes32 responseHash;
        string tag;
    }

    event ValidationRequest(
        address indexed validatorAddress, uint256 indexed agentId, string requestURI, bytes32 indexed requestHash
    );
    event ValidationResponse(
        address indexed validatorAddress,
        uint256 indexed agentId,
        bytes32 indexed requestHash,
        uint8 response,
        string responseURI,
        bytes32 responseHash,
        string tag
    );

    error RequestExists();
    error RequestUnknown();
    error ValidatorInvalid();
    error ResponseInvalid();

    mapping(bytes32 requestHash => Status) private statuses;

    function validationRequest(address validator, uint256 agentId, string calldata uri, bytes32 requestHash) external {
        if (validator == address(0)) revert ValidatorInvalid();
        Status storage s = statuses[requestHash];
        if (s.validator != address(0)) revert RequestExists();
        (s.validator, s.agentId) = (validator, agentId);
        emit ValidationRequest(validator, agentId, uri, requestHash);
    }

    /// The validator answers with 0 to 100, and may answer again: the newest answer counts.
    function validationResponse(
        bytes32 requestHash,
        uint8 response,
        string calldata uri,
        bytes32 responseHash,
        string calldata tag
    ) external {
        Status storage s = statuses[requestHash];
        if (s.validator == address(0)) revert RequestUnknown();
        if (s.validator != msg.sender) revert ValidatorInvalid();
        if (response > 100) revert ResponseInvalid();
        (s.response, s.lastUpdate, s.responseHash, s.tag) = (response, uint64(block.timestamp), responseHash, tag);
        emit ValidationResponse(msg.sender, s.agentId, requestHash, response, uri, responseHash, tag);
    }

    function getValidationStatus(bytes32 requestHash)
        external
        view
        returns (
            address validatorAddress,
            uint256 agentId,
            uint8 response,
            bytes32 responseHash,
            string memory tag,
            uint256 lastUpdate
        )
    {
        Status storage s = statuses[requestHash];
        if (s.validator == address(0)) revert RequestUnknown();
        return (s.validator, s.agentId, s.response, s.responseHash, s.tag, s.lastUpdate);
    }
}
