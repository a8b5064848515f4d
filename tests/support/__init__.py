"""What tests share: servers, peers, builders."""
