//! What a picture file is: its media type and size, from its first bytes.

/// Media type, width and height; zeros where the size is not found.
pub fn inspect(bytes: &[u8]) -> Option<(&'static str, (u64, u64))> {
    let number = |at: usize, len: usize| {
        let part = bytes.get(at..at + len)?;
        Some(part.iter().fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte)))
    };
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Some(("image/png", (number(16, 4)?, number(20, 4)?)));
    }
    if bytes.starts_with(b"GIF8") {
        let little =
            |at: usize| Some(u64::from(*bytes.get(at)?) | u64::from(*bytes.get(at + 1)?) << 8);
        return Some(("image/gif", (little(6)?, little(8)?)));
    }
    if bytes.get(8..12) == Some(b"WEBP") && bytes.starts_with(b"RIFF") {
        return Some(("image/webp", (0, 0)));
    }
    if !bytes.starts_with(&[0xff, 0xd8]) {
        return None;
    }
    // JPEG: segments, until one that begins a frame tells the size.
    let mut at = 2;
    while let (Some(marker), Some(len)) = (number(at, 2), number(at + 2, 2)) {
        let is_frame =
            matches!(marker, 0xffc0..=0xffcf) && !matches!(marker, 0xffc4 | 0xffc8 | 0xffcc);
        if is_frame {
            return Some(("image/jpeg", (number(at + 7, 2)?, number(at + 5, 2)?)));
        }
        at += 2 + (len as usize).max(2);
    }
    Some(("image/jpeg", (0, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_files_tell_type_and_size() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\0\0\0\0\x02";
        assert_eq!(inspect(png), Some(("image/png", (256, 2))));
        let jpeg = [0xff, 0xd8, 0xff, 0xe0, 0, 4, 1, 1, 0xff, 0xc0, 0, 11, 8, 0, 16, 0, 32, 1];
        assert_eq!(inspect(&jpeg), Some(("image/jpeg", (32, 16))));
        assert_eq!(inspect(&[0xff, 0xd8, 0xff]), Some(("image/jpeg", (0, 0))));
        assert_eq!(inspect(b"text"), None);
    }
}
