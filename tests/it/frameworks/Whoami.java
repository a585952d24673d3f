import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RequestAttribute;
import org.springframework.web.bind.annotation.RestController;

/** Answers with the user that the filter has found. */
@RestController
public class Whoami {
    @GetMapping(path = "/whoami", produces = "text/plain;charset=UTF-8")
    public String whoami(@RequestAttribute("user") String user) {
        return user;
    }
}
